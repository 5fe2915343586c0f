/* SPDX-License-Identifier: Apache-2.0 */
/* The index codec is a bijection that differs from key to key and shows no order. */
#include "jv/index.h"

#include <stdlib.h>

#include "check.h"
#include "jv/aead.h"

static struct jv_index_key key, other_key;

static void test_round_trip(void) {
    uint64_t seed = 1;

    for (int i = 0; i < 1000000; i++) {
        uint32_t slot = (uint32_t)next_random(&seed) % JV_INDEX_SLOTS;
        uint32_t generation = (uint32_t)next_random(&seed) % JV_INDEX_GENERATIONS, back_slot, back_generation;

        jv_index_decode(&key, jv_index_encode(&key, slot, generation), &back_slot, &back_generation);
        CHECK(back_slot == slot && back_generation == generation);
    }
}

/* Decoding is total: any 32 bits name one (slot, generation) that encodes to them again. */
static void test_every_index_decodes(void) {
    uint64_t seed = 2;

    for (int i = 0; i < 1000000; i++) {
        uint32_t index = (uint32_t)next_random(&seed), slot, generation;

        jv_index_decode(&key, index, &slot, &generation);
        CHECK(slot < JV_INDEX_SLOTS && generation < JV_INDEX_GENERATIONS);
        CHECK(jv_index_encode(&key, slot, generation) == index);
    }
}

static void test_generation_wraps(void) {
    CHECK(jv_index_encode(&key, 7, JV_INDEX_GENERATIONS + 3) == jv_index_encode(&key, 7, 3));
}

static void test_keys_differ(void) {
    int same = 0;

    for (uint32_t slot = 0; slot < 1000; slot++)
        same += jv_index_encode(&key, slot, 0) == jv_index_encode(&other_key, slot, 0);
    CHECK(same == 0);
}

/* The first slots, as a small gateway hands them out: each output bit is set in about half of them, and one
 * more in slot or generation changes about half of the bits. Bounds are 6 sigma. */
static void test_looks_random(void) {
    const int n = 4096;
    long flipped = 0;
    int ones[32] = {0};

    for (int i = 0; i < n; i++) {
        uint32_t index = jv_index_encode(&key, (uint32_t)i, 0);

        flipped += __builtin_popcount(index ^ jv_index_encode(&key, (uint32_t)i + 1, 0));
        flipped += __builtin_popcount(index ^ jv_index_encode(&key, (uint32_t)i, 1));
        for (int bit = 0; bit < 32; bit++)
            ones[bit] += index >> bit & 1;
    }
    for (int bit = 0; bit < 32; bit++)
        CHECK(abs(ones[bit] - n / 2) < 192);
    CHECK(labs(flipped - 2L * n * 16) < 6 * 256 * 2);
}

int main(void) {
    uint8_t seed[JV_INDEX_SEED_BYTES] = {1}, other_seed[JV_INDEX_SEED_BYTES] = {2};

    if (jv_aead_init() != 0)
        return 1;
    jv_index_key_init(&key, seed);
    jv_index_key_init(&other_key, other_seed);
    RUN(test_round_trip);
    RUN(test_every_index_decodes);
    RUN(test_generation_wraps);
    RUN(test_keys_differ);
    RUN(test_looks_random);
    return failures();
}
