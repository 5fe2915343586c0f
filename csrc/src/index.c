/* SPDX-License-Identifier: Apache-2.0 */
/* The boxes are the keystream of ChaCha20 under the seed: the whole key is 6 KB of secret.
 *
 * Why boxes: the permutation only has to keep peers from reading each other's indices out of their own, and a
 * guessed index still meets the tag of the cipher. SipHash-2-4 as the round function costs 11 ns a round,
 * full 16-bit tables take 768 KB of cache; two byte boxes a round, added so that they are not linear over
 * XOR, cost 3 ns and stay in 6 KB of first-level cache. Four random rounds make a permutation look random
 * (Luby and Rackoff); the boxes are weaker than random functions and get six. */
#include "jv/index.h"

#include <sodium.h>

_Static_assert(JV_INDEX_SLOT_BITS + JV_INDEX_GENERATION_BITS == 32, "an index is 32 bits");
_Static_assert(JV_INDEX_ROUNDS % 2 == 0, "rounds are taken in pairs");
_Static_assert(JV_INDEX_SEED_BYTES == crypto_stream_chacha20_KEYBYTES, "the seed is a ChaCha20 key");

void jv_index_key_init(struct jv_index_key *key, const uint8_t seed[JV_INDEX_SEED_BYTES]) {
    static const uint8_t nonce[crypto_stream_chacha20_NONCEBYTES] = {0}; /* a seed is used once */

    crypto_stream_chacha20((unsigned char *)key->box, sizeof(key->box), nonce, seed);
}
