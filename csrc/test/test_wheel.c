/* SPDX-License-Identifier: Apache-2.0 */
/* The wheel against a model that looks at every timer: each fires once, never early, and soon enough. */
#include "jv/wheel.h"

#include <stdlib.h>

#include "check.h"

#define MS     UINT64_C(1000000)
#define TIMERS 500

struct item {
    struct jv_timer timer;
    uint64_t deadline_ns; /* JV_WHEEL_NEVER = must not fire */
    uint32_t fired;
};

static struct jv_wheel wheel;
static struct item items[TIMERS];
static uint64_t now_ns;

static void fire(void *ctx, struct jv_timer *t) {
    struct item *item = jv_container_of(t, struct item, timer);

    (void)ctx;
    CHECK(!jv_timer_armed(t));
    CHECK(item->deadline_ns <= now_ns);
    item->deadline_ns = JV_WHEEL_NEVER;
    item->fired++;
}

static void start(uint64_t at_ns) {
    now_ns = at_ns;
    jv_wheel_init(&wheel, at_ns);
    memset(items, 0, sizeof(items));
    for (size_t i = 0; i < TIMERS; i++)
        items[i].deadline_ns = JV_WHEEL_NEVER;
}

static void arm(struct item *item, uint64_t deadline_ns) {
    item->deadline_ns = deadline_ns;
    jv_wheel_arm(&wheel, &item->timer, deadline_ns);
}

static void advance_to(uint64_t at_ns) {
    now_ns = at_ns;
    (void)jv_wheel_advance(&wheel, now_ns, UINT32_MAX, fire, NULL);
}

static void test_empty(void) {
    start(123 * MS);
    CHECK(jv_wheel_next_deadline(&wheel) == JV_WHEEL_NEVER);
    advance_to(UINT64_MAX);
    CHECK(jv_wheel_armed(&wheel) == 0);
}

static void test_one_timer_at_every_distance(void) {
    for (unsigned shift = 0; shift < 63; shift++) {
        uint64_t deadline = 77 * MS + (UINT64_C(1) << shift), steps = 0;

        start(77 * MS);
        arm(&items[0], deadline);
        while (items[0].fired == 0) {
            uint64_t next = jv_wheel_next_deadline(&wheel);

            CHECK(next < deadline + JV_WHEEL_TICK_NS);
            advance_to(next > now_ns ? next : now_ns);
            CHECK(++steps <= JV_WHEEL_LEVELS + 1); /* one wake-up per level at worst */
            if (steps > 100)
                return;
        }
        CHECK(now_ns >= deadline && now_ns < deadline + JV_WHEEL_TICK_NS);
        CHECK(jv_wheel_next_deadline(&wheel) == JV_WHEEL_NEVER);
    }
}

static void test_past_and_never(void) {
    start(5000 * MS);
    arm(&items[0], 0);
    arm(&items[1], JV_WHEEL_NEVER - 1);
    CHECK(jv_wheel_next_deadline(&wheel) <= now_ns);
    advance_to(5000 * MS);
    CHECK(items[0].fired == 1);
    advance_to(UINT64_MAX - JV_WHEEL_TICK_NS);
    CHECK(items[1].fired == 0);
    CHECK(jv_wheel_armed(&wheel) == 1);
}

static void test_rearm_moves(void) {
    start(0);
    arm(&items[0], 10 * MS);
    arm(&items[0], 1000 * MS);
    CHECK(jv_wheel_armed(&wheel) == 1);
    advance_to(999 * MS);
    CHECK(items[0].fired == 0);
    advance_to(1002 * MS);
    CHECK(items[0].fired == 1);
}

static void test_disarm(void) {
    start(0);
    arm(&items[0], 10 * MS);
    jv_wheel_disarm(&wheel, &items[0].timer);
    jv_wheel_disarm(&wheel, &items[0].timer);
    CHECK(jv_wheel_armed(&wheel) == 0 && jv_wheel_next_deadline(&wheel) == JV_WHEEL_NEVER);
    advance_to(100 * MS);
    CHECK(items[0].fired == 0);
}

/* All timers at one far deadline: no call touches more than its share, and all fire. */
static void test_bounded_work(void) {
    uint32_t total = 0, calls = 0;

    start(0);
    for (size_t i = 0; i < TIMERS; i++)
        arm(&items[i], 3600 * 1000 * MS);
    now_ns = 3601 * 1000 * MS;
    while (jv_wheel_next_deadline(&wheel) <= now_ns && calls < 10000) {
        uint32_t fired = jv_wheel_advance(&wheel, now_ns, 7, fire, NULL);

        CHECK(fired <= 7);
        total += fired;
        calls++;
    }
    CHECK(total == TIMERS);
    CHECK(calls >= TIMERS / 7);
    for (size_t i = 0; i < TIMERS; i++)
        CHECK(items[i].fired == 1);
}

static void rearm_self(void *ctx, struct jv_timer *t) {
    uint32_t *count = ctx;

    if (++*count < 100)
        jv_wheel_arm(&wheel, t, 0);
    jv_wheel_disarm(&wheel, &items[1].timer);
}

static void test_callback_may_rearm_and_disarm(void) {
    uint32_t count = 0;

    start(0);
    arm(&items[0], 5 * MS);
    arm(&items[1], 5 * MS);
    now_ns = 10 * MS;
    CHECK(jv_wheel_advance(&wheel, now_ns, 30, rearm_self, &count) == 30);
    CHECK(count == 30 && jv_wheel_armed(&wheel) == 1);
    CHECK(jv_wheel_advance(&wheel, now_ns, UINT32_MAX, rearm_self, &count) == 70);
    CHECK(jv_wheel_armed(&wheel) == 0);
}

static uint64_t random_delay(uint64_t *seed) {
    switch (next_random(seed) % 4) {
    case 0:
        return next_random(seed) % (70 * MS);
    case 1:
        return next_random(seed) % (5000 * MS);
    case 2:
        return next_random(seed) % (400000 * MS);
    default:
        return next_random(seed) % (UINT64_C(1) << 55);
    }
}

static void check_against_model(void) {
    uint64_t earliest = JV_WHEEL_NEVER, next = jv_wheel_next_deadline(&wheel);
    uint32_t armed = 0;

    for (size_t i = 0; i < TIMERS; i++) {
        armed += jv_timer_armed(&items[i].timer);
        CHECK(jv_timer_armed(&items[i].timer) == (items[i].deadline_ns != JV_WHEEL_NEVER));
        if (items[i].deadline_ns < earliest)
            earliest = items[i].deadline_ns;
    }
    CHECK(armed == jv_wheel_armed(&wheel));
    if (earliest == JV_WHEEL_NEVER)
        CHECK(next == JV_WHEEL_NEVER);
    else
        CHECK(next <= earliest || next - earliest < JV_WHEEL_TICK_NS);
}

static void against_model(uint64_t start_ns, uint64_t seed, uint32_t max) {
    start(start_ns);
    for (int step = 0; step < 3000; step++) {
        for (int i = 0; i < 5; i++) {
            struct item *item = &items[next_random(&seed) % TIMERS];

            if (next_random(&seed) % 4 == 0) {
                jv_wheel_disarm(&wheel, &item->timer);
                item->deadline_ns = JV_WHEEL_NEVER;
            } else {
                arm(item, now_ns + random_delay(&seed));
            }
        }
        now_ns += random_delay(&seed) >> next_random(&seed) % 20;
        do
            (void)jv_wheel_advance(&wheel, now_ns, max, fire, NULL);
        while (jv_wheel_next_deadline(&wheel) <= now_ns && next_random(&seed) % 8);
        if (max == UINT32_MAX) /* all that is due by whole ticks has fired */
            for (size_t i = 0; i < TIMERS; i++)
                CHECK(items[i].deadline_ns > now_ns - now_ns % JV_WHEEL_TICK_NS);
        check_against_model();
    }
}

static void test_against_model(void) {
    against_model(0, 1, UINT32_MAX);
    against_model(UINT64_C(1700000000123456789), 2, UINT32_MAX);
    against_model(123456789, 3, 5);
    against_model((UINT64_C(1) << 50) - 3 * MS, 4, 1);
}

int main(void) {
    RUN(test_empty);
    RUN(test_one_timer_at_every_distance);
    RUN(test_past_and_never);
    RUN(test_rearm_moves);
    RUN(test_disarm);
    RUN(test_bounded_work);
    RUN(test_callback_may_rearm_and_disarm);
    RUN(test_against_model);
    return failures();
}
