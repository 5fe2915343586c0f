/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: no counter is accepted twice, whatever comes between, growing included; one that is newer than
 * all, or fresh and inside the window, is accepted. */
#include "jv/replay.h"

#include "fuzz.h"

#define COUNTERS 8192

static uint64_t small[JV_REPLAY_BITS_CONTROL / 64], large[JV_REPLAY_BITS_SMALL / 64];
static uint8_t accepted[COUNTERS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape tape = {data, size};
    uint64_t base = take8(&tape) & 1 ? UINT64_MAX - COUNTERS + 1 : 0;
    struct jv_replay w;
    bool grown = false;

    MUST(jv_replay_init(&w, small, JV_REPLAY_BITS_CONTROL) == 0);
    memset(accepted, 0, sizeof(accepted));
    while (tape.left > 0) {
        uint64_t offset = take(&tape, 2) % COUNTERS, counter = base + offset;
        bool newest = counter > w.highest, inside = newest || w.highest - counter < jv_replay_size(&w);
        enum jv_replay_verdict peeked = jv_replay_peek(&w, counter), verdict = jv_replay_commit(&w, counter);

        MUST(peeked == verdict);
        MUST(verdict != JV_REPLAY_OK || !accepted[offset]);
        MUST(inside == (verdict != JV_REPLAY_OLD));
        if (!grown)
            MUST(!inside || accepted[offset] || verdict == JV_REPLAY_OK);
        accepted[offset] |= verdict == JV_REPLAY_OK;
        if (!grown && tape.left % 97 == 0) {
            MUST(jv_replay_grow(&w, large, JV_REPLAY_BITS_SMALL) == 0);
            grown = true;
        }
    }
    return 0;
}
