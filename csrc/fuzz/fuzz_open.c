/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: bytes that the key did not seal do not open, and what it sealed opens to itself, for every suite
 * that is offered here. */
#include "jv/aead.h"

#include "fuzz.h"

static void check_suite(unsigned suite, const uint8_t *data, size_t size) {
    static const uint8_t bytes[JV_AEAD_KEY_MAX] = {0x5a};
    size_t tag = jv_aead_tag_bytes(suite), ad_len = size < 16 ? 0 : 16;
    uint8_t *sealed = malloc(size + tag), *opened = malloc(size + 1);
    struct jv_aead_key key;

    MUST(sealed && opened && jv_aead_key_init(&key, suite, bytes, sizeof(bytes)) == 0);
    MUST(jv_aead_open(&key, size, data, ad_len, data, size, opened) == -1);
    jv_aead_seal(&key, size, data, ad_len, data, size, sealed);
    MUST(jv_aead_open(&key, size + 1, data, ad_len, sealed, size + tag, opened) == -1);
    MUST(jv_aead_open(&key, size, data, ad_len, sealed, size + tag, sealed) == 0);
    MUST(memcmp(sealed, data, size) == 0);
    free(sealed);
    free(opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    MUST(jv_aead_init() == 0);
    for (unsigned suite = 1; suite < JV_SUITE_END; suite++)
        if (jv_aead_available(suite))
            check_suite(suite, data, size);
    return 0;
}
