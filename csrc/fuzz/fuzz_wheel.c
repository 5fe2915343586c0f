/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: a timer fires once for each time it was armed, never before its deadline, and next_deadline
 * never lets one pass by more than a tick, however little work each advance is allowed. */
#include "jv/wheel.h"

#include "fuzz.h"

#define TIMERS 16

static struct jv_wheel wheel;
static struct jv_timer timers[TIMERS];
static uint64_t now_ns;

static void fire(void *ctx, struct jv_timer *t) {
    MUST(!jv_timer_armed(t) && t->deadline_ns <= now_ns);
    ++*(unsigned *)ctx;
}

static uint64_t earliest(void) {
    uint64_t first = JV_WHEEL_NEVER;

    for (size_t i = 0; i < TIMERS; i++)
        if (jv_timer_armed(&timers[i]) && timers[i].deadline_ns < first)
            first = timers[i].deadline_ns;
    return first;
}

static void check(void) {
    uint64_t next = jv_wheel_next_deadline(&wheel), first = earliest();

    MUST((next == JV_WHEEL_NEVER) == (first == JV_WHEEL_NEVER));
    MUST(next <= first || next - first < JV_WHEEL_TICK_NS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape tape = {data, size};
    unsigned armed = 0, fired = 0;

    now_ns = take(&tape, 7);
    jv_wheel_init(&wheel, now_ns);
    memset(timers, 0, sizeof(timers));
    while (tape.left > 0) {
        uint8_t what = take8(&tape);
        struct jv_timer *t = &timers[what % TIMERS];
        uint64_t delay = take(&tape, 2) << (what >> 4) * 3 % 40;

        if (what & 0x80 && what & 0x10) {
            now_ns += delay;
            jv_wheel_advance(&wheel, now_ns, 1 + what % 5, fire, &fired);
        } else if (what & 0x80) {
            armed -= jv_timer_armed(t);
            jv_wheel_disarm(&wheel, t);
        } else {
            armed += !jv_timer_armed(t);
            jv_wheel_arm(&wheel, t, now_ns + delay);
        }
        check();
        MUST(jv_wheel_armed(&wheel) == armed - fired);
    }
    while (jv_wheel_armed(&wheel) > 0) {
        uint64_t next = jv_wheel_next_deadline(&wheel);

        now_ns = next > now_ns ? next : now_ns;
        jv_wheel_advance(&wheel, now_ns, 1, fire, &fired);
    }
    MUST(fired == armed);
    return 0;
}
