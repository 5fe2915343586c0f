/* SPDX-License-Identifier: Apache-2.0 */
/* The cipher suites of transport messages, over libsodium. What the CPU and the library offer is found once,
 * in jv_aead_init(); a key of a suite that is not there cannot be made, so seal and open never ask again.
 * A (key, counter) pair is sealed once: the caller owns that promise. */
#ifndef JV_AEAD_H
#define JV_AEAD_H

#include "jv/common.h"

/* Numbers 2 and 3 are on the wire (type 5 header); 1 is WireGuard's own cipher and has no number there. */
enum jv_suite {
    JV_SUITE_CHACHA20POLY1305 = 1, /* always; WireGuard transport messages and control frames */
    JV_SUITE_AES256GCM = 2,        /* needs AES instructions */
    JV_SUITE_AEGIS128L = 3,        /* needs libsodium >= 1.0.19, and AES instructions to be worth it */
    JV_SUITE_END
};

#define JV_AEAD_KEY_MAX 32
#define JV_AEAD_TAG_MAX 32
/* An expanded AES-256-GCM key. Memory of this size is 16-byte aligned and belongs to who attaches it. */
#define JV_AEAD_SCHEDULE_BYTES 512

/* A key for one direction. 48 bytes: it lies in the hot lines of a session. Wipe it when it is done. */
struct jv_aead_key {
    uint8_t bytes[JV_AEAD_KEY_MAX];
    void *schedule; /* NULL, or the expanded key: attached by a cache of hot keys, not owned */
    uint8_t suite;  /* enum jv_suite, 0 = no key */
};

/* Starts libsodium and fills the suite table. Call before any other function here, from one thread; calling
 * again does no harm. 0 or -ENOSYS. */
JV_API int jv_aead_init(void) JV_WARN_UNUSED;

JV_API bool jv_aead_available(unsigned suite);
/* 0 for a number that is no suite. */
JV_API size_t jv_aead_key_bytes(unsigned suite);
JV_API size_t jv_aead_tag_bytes(unsigned suite);
/* "chacha20-poly1305", "aes-256-gcm", "aegis-128l", as key derivation knows them; NULL if none. */
JV_API const char *jv_aead_name(unsigned suite);

/* len = JV_AEAD_KEY_MAX, whatever the suite: AEGIS-128L takes the first 16 bytes of the derived key.
 * 0, -EINVAL (no such suite, or wrong length), -ENOTSUP (not offered here). */
JV_API int jv_aead_key_init(struct jv_aead_key *key, unsigned suite, const uint8_t *bytes,
                            size_t len) JV_NONNULL JV_WARN_UNUSED;
JV_API void jv_aead_key_wipe(struct jv_aead_key *key) JV_NONNULL;

/* Expands an AES-256-GCM key into schedule (JV_AEAD_SCHEDULE_BYTES) and uses it from now on; saves the
 * expansion per packet. A no-op for other suites. detach wipes the schedule and hands the memory back. */
JV_API void jv_aead_attach(struct jv_aead_key *key, void *schedule) JV_NONNULL;
JV_API void *jv_aead_detach(struct jv_aead_key *key) JV_NONNULL;

/* dst gets len bytes of ciphertext and the tag. dst == src is allowed, any other overlap is not. */
JV_API void jv_aead_seal(const struct jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                         const uint8_t *src, size_t len, uint8_t *dst) __attribute__((nonnull(1, 5, 7)));

/* len counts the tag. dst gets len - tag bytes; dst == src is allowed. 0, or -1 when the tag does not verify
 * or len is less than a tag: dst then holds nothing of use. */
JV_API int jv_aead_open(const struct jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                        const uint8_t *src, size_t len, uint8_t *dst)
    __attribute__((nonnull(1, 5, 7))) JV_WARN_UNUSED;

/* The file and the version of the libsodium this library calls; "" if the loader does not know the file. */
JV_API const char *jv_sodium_path(void);
JV_API const char *jv_sodium_version(void);

#endif
