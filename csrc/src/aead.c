/* SPDX-License-Identifier: Apache-2.0 */
/* The suite table is written once, by jv_aead_init(), and only read afterwards. Nonces are built here and
 * nowhere else, from the counter alone, so a nonce repeats only if a counter does. */
#include "jv/aead.h"

#include <dlfcn.h>
#include <errno.h>
#include <sodium.h>

/* libsodium before 1.0.19 has no AEGIS: the names are weak and NULL there, whatever headers we were built
 * with. */
int crypto_aead_aegis128l_encrypt(unsigned char *c, unsigned long long *clen, const unsigned char *m,
                                  unsigned long long mlen, const unsigned char *ad, unsigned long long adlen,
                                  const unsigned char *nsec, const unsigned char *npub,
                                  const unsigned char *k) __attribute__((weak, visibility("default")));
int crypto_aead_aegis128l_decrypt(unsigned char *m, unsigned long long *mlen, unsigned char *nsec,
                                  const unsigned char *c, unsigned long long clen, const unsigned char *ad,
                                  unsigned long long adlen, const unsigned char *npub, const unsigned char *k)
    __attribute__((weak, visibility("default")));

_Static_assert(JV_AEAD_SCHEDULE_BYTES == sizeof(crypto_aead_aes256gcm_state), "size of the expanded key");

#define NONCE_MAX 16

/* Both have the shape of libsodium's one-shot calls, less the parts nobody uses. */
typedef void (*seal_fn)(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                        const uint8_t *src, size_t len, uint8_t *dst);
typedef int (*open_fn)(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                       const uint8_t *src, size_t len, uint8_t *dst);

struct suite {
    const char *name;
    uint8_t key_bytes, tag_bytes, nonce_bytes;
    bool available;
    seal_fn seal;
    open_fn open;
};

static void chacha_seal(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                        const uint8_t *src, size_t len, uint8_t *dst) {
    crypto_aead_chacha20poly1305_ietf_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key->bytes);
}

static int chacha_open(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                       const uint8_t *src, size_t len, uint8_t *dst) {
    return crypto_aead_chacha20poly1305_ietf_decrypt(dst, NULL, NULL, src, len, ad, ad_len, nonce,
                                                     key->bytes);
}

static void gcm_seal(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                     const uint8_t *src, size_t len, uint8_t *dst) {
    if (key->schedule)
        crypto_aead_aes256gcm_encrypt_afternm(dst, NULL, src, len, ad, ad_len, NULL, nonce, key->schedule);
    else
        crypto_aead_aes256gcm_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key->bytes);
}

static int gcm_open(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                    const uint8_t *src, size_t len, uint8_t *dst) {
    if (key->schedule)
        return crypto_aead_aes256gcm_decrypt_afternm(dst, NULL, NULL, src, len, ad, ad_len, nonce,
                                                     key->schedule);
    return crypto_aead_aes256gcm_decrypt(dst, NULL, NULL, src, len, ad, ad_len, nonce, key->bytes);
}

static void aegis_seal(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                       const uint8_t *src, size_t len, uint8_t *dst) {
    crypto_aead_aegis128l_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key->bytes);
}

static int aegis_open(const struct jv_aead_key *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_len,
                      const uint8_t *src, size_t len, uint8_t *dst) {
    return crypto_aead_aegis128l_decrypt(dst, NULL, NULL, src, len, ad, ad_len, nonce, key->bytes);
}

static struct suite suites[JV_SUITE_END] = {
    [JV_SUITE_CHACHA20POLY1305] = {"chacha20-poly1305", 32, 16, 12, false, chacha_seal, chacha_open},
    [JV_SUITE_AES256GCM] = {"aes-256-gcm", 32, 16, 12, false, gcm_seal, gcm_open},
    [JV_SUITE_AEGIS128L] = {"aegis-128l", 16, 32, 16, false, aegis_seal, aegis_open},
};

int jv_aead_init(void) {
    bool has_aes;

    if (sodium_init() < 0)
        return -ENOSYS;
    has_aes = crypto_aead_aes256gcm_is_available() == 1;
    suites[JV_SUITE_CHACHA20POLY1305].available = true;
    suites[JV_SUITE_AES256GCM].available = has_aes;
    /* libsodium has a portable AEGIS for the rest, but that one loses to ChaCha20. */
    suites[JV_SUITE_AEGIS128L].available =
        has_aes && crypto_aead_aegis128l_encrypt && crypto_aead_aegis128l_decrypt;
    return 0;
}

static const struct suite *find(unsigned suite) {
    return suite < JV_SUITE_END && suites[suite].name ? &suites[suite] : NULL;
}

bool jv_aead_available(unsigned suite) {
    const struct suite *s = find(suite);

    return s && s->available;
}

size_t jv_aead_key_bytes(unsigned suite) {
    const struct suite *s = find(suite);

    return s ? s->key_bytes : 0;
}

size_t jv_aead_tag_bytes(unsigned suite) {
    const struct suite *s = find(suite);

    return s ? s->tag_bytes : 0;
}

const char *jv_aead_name(unsigned suite) {
    const struct suite *s = find(suite);

    return s ? s->name : NULL;
}

int jv_aead_key_init(struct jv_aead_key *key, unsigned suite, const uint8_t *bytes, size_t len) {
    const struct suite *s = find(suite);

    if (!s || len != JV_AEAD_KEY_MAX)
        return -EINVAL;
    if (!s->available)
        return -ENOTSUP;
    memset(key, 0, sizeof(*key));
    memcpy(key->bytes, bytes, s->key_bytes);
    key->suite = (uint8_t)suite;
    return 0;
}

void jv_aead_key_wipe(struct jv_aead_key *key) {
    if (key->schedule)
        sodium_memzero(key->schedule, JV_AEAD_SCHEDULE_BYTES);
    sodium_memzero(key, sizeof(*key));
}

void jv_aead_attach(struct jv_aead_key *key, void *schedule) {
    if (key->suite != JV_SUITE_AES256GCM)
        return;
    crypto_aead_aes256gcm_beforenm(schedule, key->bytes);
    key->schedule = schedule;
}

void *jv_aead_detach(struct jv_aead_key *key) {
    void *schedule = key->schedule;

    if (schedule)
        sodium_memzero(schedule, JV_AEAD_SCHEDULE_BYTES);
    key->schedule = NULL;
    return schedule;
}

/* The counter as little endian in the last 8 bytes, zero before it: WireGuard whitepaper §5.4.6, RFC 8439
 * §2.8. */
static void build_nonce(uint8_t nonce[NONCE_MAX], const struct suite *s, uint64_t counter) {
    memset(nonce, 0, NONCE_MAX);
    jv_put_le64(nonce + s->nonce_bytes - 8, counter);
}

void jv_aead_seal(const struct jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                  const uint8_t *src, size_t len, uint8_t *dst) {
    const struct suite *s = &suites[key->suite];
    uint8_t nonce[NONCE_MAX];

    build_nonce(nonce, s, counter);
    s->seal(key, nonce, ad, ad_len, src, len, dst);
}

int jv_aead_open(const struct jv_aead_key *key, uint64_t counter, const uint8_t *ad, size_t ad_len,
                 const uint8_t *src, size_t len, uint8_t *dst) {
    const struct suite *s = &suites[key->suite];
    uint8_t nonce[NONCE_MAX];

    if (len < s->tag_bytes)
        return -1;
    build_nonce(nonce, s, counter);
    return s->open(key, nonce, ad, ad_len, src, len, dst);
}

const char *jv_sodium_version(void) {
    return sodium_version_string();
}

/* By the address of a string inside libsodium: the address of a function may be a stub of the caller's. */
const char *jv_sodium_path(void) {
    Dl_info info;

    return dladdr(sodium_version_string(), &info) && info.dli_fname ? info.dli_fname : "";
}
