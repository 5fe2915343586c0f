/* SPDX-License-Identifier: Apache-2.0 */
/* The window against RFC 6479's cases and, at random, against a model that remembers every counter. */
#include "jv/replay.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"

static uint64_t words[JV_REPLAY_BITS_LARGE / 64], more_words[JV_REPLAY_BITS_LARGE / 64];

static struct jv_replay window_of(uint32_t bits) {
    struct jv_replay w;

    CHECK(jv_replay_init(&w, words, bits) == 0);
    return w;
}

static void test_sizes(void) {
    struct jv_replay w;

    CHECK(jv_replay_init(&w, words, 0) == -EINVAL);
    CHECK(jv_replay_init(&w, words, 64) == -EINVAL);
    CHECK(jv_replay_init(&w, words, 8191) == -EINVAL);
    CHECK(jv_replay_init(&w, words, UINT32_C(1) << 21) == -EINVAL);
    CHECK(jv_replay_init(&w, words, JV_REPLAY_BITS_DEFAULT) == 0);
    CHECK(jv_replay_size(&w) == JV_REPLAY_BITS_DEFAULT - 64);
}

/* The sequence of the WireGuard kernel module's own self-test, in our words. */
static void test_edges(void) {
    struct jv_replay w = window_of(JV_REPLAY_BITS_DEFAULT);
    const uint64_t size = jv_replay_size(&w);

    CHECK(jv_replay_commit(&w, 0) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 1) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 1) == JV_REPLAY_SEEN);
    CHECK(jv_replay_commit(&w, 9) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 8) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 7) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 7) == JV_REPLAY_SEEN);
    CHECK(jv_replay_commit(&w, size) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, size - 1) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, size - 1) == JV_REPLAY_SEEN);
    CHECK(jv_replay_commit(&w, 0) == JV_REPLAY_OLD);
    CHECK(jv_replay_commit(&w, 2) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, size + 16) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 3) == JV_REPLAY_OLD);
    CHECK(jv_replay_commit(&w, size + 16) == JV_REPLAY_SEEN);
    CHECK(jv_replay_highest(&w) == size + 16);
}

static void test_far_jump_forgets(void) {
    struct jv_replay w = window_of(1024);
    const uint64_t far = UINT64_C(1) << 40;

    for (uint64_t i = 0; i < 1024; i++)
        CHECK(jv_replay_commit(&w, i) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, far) == JV_REPLAY_OK);
    for (uint64_t i = 1; i < jv_replay_size(&w); i++)
        CHECK(jv_replay_commit(&w, far - i) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, far - jv_replay_size(&w)) == JV_REPLAY_OLD);
}

static void test_end_of_counter_space(void) {
    struct jv_replay w = window_of(1024);

    CHECK(jv_replay_commit(&w, UINT64_MAX) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, UINT64_MAX) == JV_REPLAY_SEEN);
    CHECK(jv_replay_commit(&w, UINT64_MAX - 1) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&w, 0) == JV_REPLAY_OLD);
}

static void test_peek_changes_nothing(void) {
    struct jv_replay w = window_of(2048);

    CHECK(jv_replay_peek(&w, 100) == JV_REPLAY_OK);
    CHECK(jv_replay_highest(&w) == 0);
    CHECK(jv_replay_commit(&w, 100) == JV_REPLAY_OK);
    CHECK(jv_replay_peek(&w, 100) == JV_REPLAY_SEEN);
}

#define MODEL_COUNTERS 400000

/* Once seen, never OK again; never seen and in the window, always OK. */
static void against_model(uint32_t bits, uint64_t seed) {
    uint8_t *seen = calloc(1, MODEL_COUNTERS);
    struct jv_replay w = window_of(bits);
    uint64_t base = 0;

    for (int i = 0; seen && i < 200000; i++) {
        uint64_t back = next_random(&seed) % (bits + 200), counter = base > back ? base - back : 0;
        enum jv_replay_verdict expect;

        if (next_random(&seed) % 1000 == 0)
            base += next_random(&seed) % (3 * (uint64_t)bits);
        if (next_random(&seed) % 3 == 0)
            counter = ++base;
        if (counter >= MODEL_COUNTERS)
            break;
        if (counter <= jv_replay_highest(&w) && jv_replay_highest(&w) - counter >= jv_replay_size(&w))
            expect = JV_REPLAY_OLD;
        else
            expect = seen[counter] ? JV_REPLAY_SEEN : JV_REPLAY_OK;
        CHECK(jv_replay_peek(&w, counter) == expect);
        CHECK(jv_replay_commit(&w, counter) == expect);
        seen[counter] = 1;
    }
    free(seen);
}

static void test_against_model(void) {
    against_model(128, 1);
    against_model(JV_REPLAY_BITS_CONTROL, 2);
    against_model(JV_REPLAY_BITS_SMALL, 3);
    against_model(JV_REPLAY_BITS_DEFAULT, 4);
}

static void test_grow_forgets_nothing(void) {
    static const uint64_t tops[] = {0, 5, 64, 127, 5000, 8191, 8192, 100000, UINT64_C(1) << 50};
    struct jv_replay w;

    for (size_t i = 0; i < JV_ARRAY_LEN(tops); i++) {
        enum jv_replay_verdict before[JV_REPLAY_BITS_DEFAULT];
        uint64_t top = tops[i], seed = i, reach = top < 8000 ? top : 8000;

        w = window_of(JV_REPLAY_BITS_DEFAULT);
        CHECK(jv_replay_commit(&w, top) == JV_REPLAY_OK);
        for (int n = 0; n < 3000; n++)
            (void)jv_replay_commit(&w, top - next_random(&seed) % (reach + 1));
        for (uint64_t back = 0; back <= reach; back++)
            before[back] = jv_replay_peek(&w, top - back);
        CHECK(jv_replay_grow(&w, more_words, JV_REPLAY_BITS_LARGE) == 0);
        for (uint64_t back = 0; back <= reach; back++)
            CHECK(jv_replay_peek(&w, top - back) == before[back]);
        for (uint64_t back = 8192; back < 70000 && back <= top; back += 7)
            CHECK(jv_replay_peek(&w, top - back) != JV_REPLAY_OK);
        CHECK(jv_replay_commit(&w, top + 60000) == JV_REPLAY_OK);
        CHECK(jv_replay_commit(&w, top + 1) == JV_REPLAY_OK);
        CHECK(jv_replay_commit(&w, top) == JV_REPLAY_SEEN);
    }
}

static void test_grow_refused(void) {
    struct jv_replay w = window_of(JV_REPLAY_BITS_DEFAULT);

    CHECK(jv_replay_grow(&w, more_words, JV_REPLAY_BITS_DEFAULT) == -EINVAL);
    CHECK(jv_replay_grow(&w, more_words, JV_REPLAY_BITS_SMALL) == -EINVAL);
    CHECK(jv_replay_grow(&w, more_words, 65535) == -EINVAL);
    CHECK(w.words == words);
}

int main(void) {
    RUN(test_sizes);
    RUN(test_edges);
    RUN(test_far_jump_forgets);
    RUN(test_end_of_counter_space);
    RUN(test_peek_changes_nothing);
    RUN(test_against_model);
    RUN(test_grow_forgets_nothing);
    RUN(test_grow_refused);
    return failures();
}
