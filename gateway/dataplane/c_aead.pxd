# SPDX-License-Identifier: Apache-2.0
"""jv/aead.h"""

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "jv/aead.h" nogil:
    enum:
        JV_SUITE_CHACHA20POLY1305
        JV_SUITE_AES256GCM
        JV_SUITE_AEGIS128L
        JV_SUITE_END
        JV_AEAD_KEY_MAX

    struct jv_aead_key:
        uint8_t suite

    int jv_aead_init()
    bint jv_aead_available(unsigned suite)
    size_t jv_aead_tag_bytes(unsigned suite)
    const char *jv_aead_name(unsigned suite)
    int jv_aead_key_init(jv_aead_key *key, unsigned suite, const uint8_t *data, size_t size)
    void jv_aead_key_wipe(jv_aead_key *key)
    void jv_aead_seal(const jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                      const uint8_t *src, size_t size, uint8_t *dst)
    int jv_aead_open(const jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                     const uint8_t *src, size_t size, uint8_t *dst)
    const char *jv_sodium_path()
    const char *jv_sodium_version()
