/* SPDX-License-Identifier: Apache-2.0 */
/* Receiver indices: (slot, generation) <-> 32 bits through a keyed permutation, so that an index finds its
 * session without a search and yet shows neither how many there are nor what the next one will be. The key
 * lives as long as the process; indices mean nothing to another one. */
#ifndef JV_INDEX_H
#define JV_INDEX_H

#include "jv/common.h"

#define JV_INDEX_SLOT_BITS       20
#define JV_INDEX_GENERATION_BITS 12
#define JV_INDEX_SLOTS           (UINT32_C(1) << JV_INDEX_SLOT_BITS)
#define JV_INDEX_GENERATIONS     (UINT32_C(1) << JV_INDEX_GENERATION_BITS)

#define JV_INDEX_SEED_BYTES 32
#define JV_INDEX_ROUNDS     6

/* 6 KB, read at random: it lives in the first-level cache. */
struct jv_index_key {
    uint16_t box[JV_INDEX_ROUNDS][2][256];
};

/* seed: fresh random bytes. Call jv_aead_init() before. */
JV_API void jv_index_key_init(struct jv_index_key *key, const uint8_t seed[JV_INDEX_SEED_BYTES]) JV_NONNULL;

/* The Feistel round function: two key-dependent boxes over the bytes of one half. */
static inline uint16_t jv_index_round(const struct jv_index_key *key, unsigned round, uint16_t half) {
    return (uint16_t)(key->box[round][0][half >> 8] + key->box[round][1][half & 0xff]);
}

/* slot < JV_INDEX_SLOTS; generation wraps at JV_INDEX_GENERATIONS. */
static inline uint32_t jv_index_encode(const struct jv_index_key *key, uint32_t slot, uint32_t generation) {
    uint32_t plain = slot << JV_INDEX_GENERATION_BITS | (generation & (JV_INDEX_GENERATIONS - 1));
    uint16_t left = (uint16_t)(plain >> 16), right = (uint16_t)plain;

    for (unsigned round = 0; round < JV_INDEX_ROUNDS; round += 2) {
        left ^= jv_index_round(key, round, right);
        right ^= jv_index_round(key, round + 1, left);
    }
    return (uint32_t)left << 16 | right;
}

static inline void jv_index_decode(const struct jv_index_key *key, uint32_t index, uint32_t *slot,
                                   uint32_t *generation) {
    uint16_t left = (uint16_t)(index >> 16), right = (uint16_t)index;
    uint32_t plain;

    for (unsigned round = JV_INDEX_ROUNDS; round > 0; round -= 2) {
        right ^= jv_index_round(key, round - 1, left);
        left ^= jv_index_round(key, round - 2, right);
    }
    plain = (uint32_t)left << 16 | right;
    *slot = plain >> JV_INDEX_GENERATION_BITS;
    *generation = plain & (JV_INDEX_GENERATIONS - 1);
}

#endif
