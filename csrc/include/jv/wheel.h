/* SPDX-License-Identifier: Apache-2.0 */
/* A hierarchical timing wheel. Timers are members of the objects they wake; the wheel owns none of them.
 * A timer never fires before its deadline, and at most one tick after it, plus the caller's own delay.
 * Time is the caller's: nanoseconds of one monotonic clock, never going back. */
#ifndef JV_WHEEL_H
#define JV_WHEEL_H

#include "jv/common.h"

/* One tick is 2^20 ns = 1.05 ms: a shift instead of a division, and well under the shortest timer (30 ms). */
#define JV_WHEEL_TICK_SHIFT 20
#define JV_WHEEL_TICK_NS    (UINT64_C(1) << JV_WHEEL_TICK_SHIFT)
#define JV_WHEEL_SLOT_BITS  6
#define JV_WHEEL_SLOTS      64
/* 8 levels of 6 bits are 48 bits of ticks: every 64-bit time has its place, nothing is clamped. */
#define JV_WHEEL_LEVELS 8
#define JV_WHEEL_NEVER  UINT64_MAX

/* All zero = not armed. Must not move in memory while armed. */
struct jv_timer {
    struct jv_timer *next, *prev;
    uint64_t deadline_ns;
};

struct jv_wheel {
    uint64_t tick;                                           /* everything before it has fired */
    uint64_t occupied[JV_WHEEL_LEVELS];                      /* bit s: slot s holds timers */
    struct jv_timer slots[JV_WHEEL_LEVELS * JV_WHEEL_SLOTS]; /* list heads */
    uint32_t armed;
    uint8_t draining; /* level whose current slot is half moved down, 0 = none */
};

/* The timer is disarmed when it is called; it may arm and disarm any timer, its own included. */
typedef void (*jv_wheel_fire)(void *ctx, struct jv_timer *timer);

JV_API void jv_wheel_init(struct jv_wheel *w, uint64_t now_ns) JV_NONNULL;

static inline bool jv_timer_armed(const struct jv_timer *t) {
    return t->next != NULL;
}

/* O(1). Arming an armed timer moves it. A deadline in the past fires at the next advance. */
JV_API void jv_wheel_arm(struct jv_wheel *w, struct jv_timer *t, uint64_t deadline_ns) JV_NONNULL;
/* O(1). Disarming a timer that is not armed does nothing. */
JV_API void jv_wheel_disarm(struct jv_wheel *w, struct jv_timer *t) JV_NONNULL;

/* Fires what is due, touching at most `max` timers (a timer moved down a level counts as one), so that a
 * crowd cannot stall the loop. Returns how many fired. More is due if jv_wheel_next_deadline() <= now_ns. */
JV_API uint32_t jv_wheel_advance(struct jv_wheel *w, uint64_t now_ns, uint32_t max, jv_wheel_fire fire,
                                 void *ctx) __attribute__((nonnull(1, 4)));

/* When to call advance next; JV_WHEEL_NEVER when nothing is armed. Never more than a tick later than the
 * earliest deadline; may be earlier, when a far timer has to move down a level. O(levels). */
JV_API uint64_t jv_wheel_next_deadline(const struct jv_wheel *w) JV_NONNULL JV_PURE;

static inline uint32_t jv_wheel_armed(const struct jv_wheel *w) {
    return w->armed;
}

#endif
