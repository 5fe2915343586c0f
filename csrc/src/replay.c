/* SPDX-License-Identifier: Apache-2.0 */
/* The rare half of the replay window: making and growing it. Growing never makes an old packet acceptable. */
#include "jv/replay.h"

#include <errno.h>

static bool usable_size(uint32_t bits) {
    return bits >= 128 && bits <= UINT32_C(1) << 20 && (bits & (bits - 1)) == 0;
}

int jv_replay_init(struct jv_replay *w, uint64_t *words, uint32_t bits) {
    if (!usable_size(bits))
        return -EINVAL;
    memset(words, 0, jv_replay_bytes(bits));
    *w = (struct jv_replay){.words = words, .word_mask = bits / 64 - 1};
    return 0;
}

int jv_replay_grow(struct jv_replay *w, uint64_t *words, uint32_t bits) {
    uint32_t old_words = w->word_mask + 1, new_mask = bits / 64 - 1;
    uint64_t top = w->highest >> 6;

    if (!usable_size(bits) || new_mask <= w->word_mask)
        return -EINVAL;
    /* Word numbers top - new_mask .. top; those below zero do not exist yet. */
    for (uint64_t back = 0; back <= new_mask; back++) {
        uint64_t number = top - back;

        if (back > top)
            words[number & new_mask] = 0;
        else if (back < old_words)
            words[number & new_mask] = w->words[number & w->word_mask];
        else
            words[number & new_mask] = UINT64_MAX; /* forgotten, so refused */
    }
    w->words = words;
    w->word_mask = new_mask;
    return 0;
}
