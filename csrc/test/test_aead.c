/* SPDX-License-Identifier: Apache-2.0 */
/* Every suite that is offered here: published vectors, the round trip, no changed bit goes through. */
#include "jv/aead.h"

#include <errno.h>

#include "check.h"

#define MESSAGE_MAX 1500

static uint8_t plain[MESSAGE_MAX], sealed[MESSAGE_MAX + JV_AEAD_TAG_MAX],
    opened[MESSAGE_MAX + JV_AEAD_TAG_MAX];

static void fill(uint8_t *p, size_t len, uint64_t seed) {
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)next_random(&seed);
}

static bool make_key(struct jv_aead_key *key, unsigned suite) {
    uint8_t bytes[JV_AEAD_KEY_MAX];

    fill(bytes, sizeof(bytes), suite);
    return jv_aead_key_init(key, suite, bytes, sizeof(bytes)) == 0;
}

static void test_table(void) {
    static const size_t tags[] = {
        [JV_SUITE_CHACHA20POLY1305] = 16, [JV_SUITE_AES256GCM] = 16, [JV_SUITE_AEGIS128L] = 32};

    CHECK(jv_aead_available(JV_SUITE_CHACHA20POLY1305));
    for (unsigned suite = 1; suite < JV_SUITE_END; suite++) {
        CHECK(jv_aead_tag_bytes(suite) == tags[suite]);
        CHECK(jv_aead_name(suite) != NULL);
        printf("# %s: %s\n", jv_aead_name(suite), jv_aead_available(suite) ? "offered" : "not offered here");
    }
    for (unsigned suite = 0; suite < 300; suite += JV_SUITE_END) {
        CHECK(!jv_aead_available(suite));
        CHECK(jv_aead_tag_bytes(suite) == 0 && jv_aead_key_bytes(suite) == 0 && jv_aead_name(suite) == NULL);
    }
}

static void test_key_refused(void) {
    uint8_t bytes[JV_AEAD_KEY_MAX] = {0};
    struct jv_aead_key key;

    CHECK(jv_aead_key_init(&key, 0, bytes, sizeof(bytes)) == -EINVAL);
    CHECK(jv_aead_key_init(&key, JV_SUITE_END, bytes, sizeof(bytes)) == -EINVAL);
    CHECK(jv_aead_key_init(&key, JV_SUITE_CHACHA20POLY1305, bytes, 16) == -EINVAL);
}

static void test_round_trip(void) {
    static const size_t lengths[] = {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 256, 1420, MESSAGE_MAX};
    struct jv_aead_key key;
    uint8_t ad[16];

    fill(plain, sizeof(plain), 7);
    fill(ad, sizeof(ad), 8);
    for (unsigned suite = 1; suite < JV_SUITE_END; suite++) {
        size_t tag = jv_aead_tag_bytes(suite);

        if (!jv_aead_available(suite))
            continue;
        CHECK(make_key(&key, suite));
        for (size_t i = 0; i < JV_ARRAY_LEN(lengths); i++) {
            size_t len = lengths[i];

            jv_aead_seal(&key, i, ad, i % 2 ? sizeof(ad) : 0, plain, len, sealed);
            CHECK(jv_aead_open(&key, i, ad, i % 2 ? sizeof(ad) : 0, sealed, len + tag, opened) == 0);
            CHECK(memcmp(opened, plain, len) == 0);
            CHECK(jv_aead_open(&key, i + 1, ad, i % 2 ? sizeof(ad) : 0, sealed, len + tag, opened) == -1);
        }
        jv_aead_key_wipe(&key);
    }
}

static void test_in_place(void) {
    struct jv_aead_key key;

    fill(plain, sizeof(plain), 9);
    for (unsigned suite = 1; suite < JV_SUITE_END; suite++) {
        if (!jv_aead_available(suite))
            continue;
        CHECK(make_key(&key, suite));
        jv_aead_seal(&key, 5, NULL, 0, plain, 1420, sealed);
        memcpy(opened, plain, 1420);
        jv_aead_seal(&key, 5, NULL, 0, opened, 1420, opened);
        CHECK(memcmp(opened, sealed, 1420 + jv_aead_tag_bytes(suite)) == 0);
        CHECK(jv_aead_open(&key, 5, NULL, 0, opened, 1420 + jv_aead_tag_bytes(suite), opened) == 0);
        CHECK(memcmp(opened, plain, 1420) == 0);
    }
}

static void test_every_changed_byte_is_refused(void) {
    struct jv_aead_key key;
    uint8_t ad[16] = {5, 2};

    for (unsigned suite = 1; suite < JV_SUITE_END; suite++) {
        size_t len = 40 + jv_aead_tag_bytes(suite);

        if (!jv_aead_available(suite))
            continue;
        CHECK(make_key(&key, suite));
        jv_aead_seal(&key, 1, ad, sizeof(ad), plain, 40, sealed);
        for (size_t i = 0; i < len; i++) {
            sealed[i] ^= 1;
            CHECK(jv_aead_open(&key, 1, ad, sizeof(ad), sealed, len, opened) == -1);
            sealed[i] ^= 1;
        }
        for (size_t i = 0; i < sizeof(ad); i++) {
            ad[i] ^= 0x80;
            CHECK(jv_aead_open(&key, 1, ad, sizeof(ad), sealed, len, opened) == -1);
            ad[i] ^= 0x80;
        }
        for (size_t cut = 0; cut < len; cut++)
            CHECK(jv_aead_open(&key, 1, ad, sizeof(ad), sealed, cut, opened) == -1);
        CHECK(jv_aead_open(&key, 1, ad, sizeof(ad), sealed, len, opened) == 0);
    }
}

static void test_schedule_changes_nothing(void) {
    static _Alignas(16) uint8_t schedule[JV_AEAD_SCHEDULE_BYTES];
    struct jv_aead_key key;

    CHECK(make_key(&key, JV_SUITE_CHACHA20POLY1305));
    jv_aead_attach(&key, schedule);
    CHECK(jv_aead_detach(&key) == NULL);
    if (!jv_aead_available(JV_SUITE_AES256GCM))
        return;
    CHECK(make_key(&key, JV_SUITE_AES256GCM));
    jv_aead_seal(&key, 3, NULL, 0, plain, 100, sealed);
    jv_aead_attach(&key, schedule);
    jv_aead_seal(&key, 3, NULL, 0, plain, 100, opened);
    CHECK(memcmp(sealed, opened, 116) == 0);
    CHECK(jv_aead_open(&key, 3, NULL, 0, opened, 116, opened) == 0);
    CHECK(jv_aead_detach(&key) == schedule);
    for (size_t i = 0; i < sizeof(schedule); i++)
        CHECK(schedule[i] == 0);
    CHECK(jv_aead_open(&key, 3, NULL, 0, sealed, 116, sealed) == 0);
}

static void from_hex(uint8_t *out, const char *hex) {
    for (; *hex; hex += 2)
        sscanf(hex, "%2hhx", out++);
}

/* RFC 8439 appendix A.5: its nonce is four zero bytes and a counter, as WireGuard builds them. */
static void test_vector_rfc8439(void) {
    static const char text[] = "Internet-Drafts are draft documents valid for a maximum of six months and "
                               "may be updated, replaced, or "
                               "obsoleted by other documents at any time. It is inappropriate to use "
                               "Internet-Drafts as reference material "
                               "or to cite them other than as /\xe2\x80\x9cwork in progress./\xe2\x80\x9d";
    uint8_t bytes[32], ad[12], tag[16];
    struct jv_aead_key key;
    size_t len = sizeof(text) - 1;

    from_hex(bytes, "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    from_hex(ad, "f33388860000000000004e91");
    from_hex(tag, "eead9d67890cbb22392336fea1851f38");
    CHECK(jv_aead_key_init(&key, JV_SUITE_CHACHA20POLY1305, bytes, sizeof(bytes)) == 0);
    jv_aead_seal(&key, UINT64_C(0x0807060504030201), ad, sizeof(ad), (const uint8_t *)text, len, sealed);
    CHECK(len == 265 && memcmp(sealed + len, tag, sizeof(tag)) == 0);
}

/* McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 and 14: all zero, counter 0. */
static void test_vector_gcm(void) {
    static const uint8_t zero[32];
    uint8_t expect[32];
    struct jv_aead_key key;

    if (jv_aead_key_init(&key, JV_SUITE_AES256GCM, zero, sizeof(zero)) != 0)
        return;
    jv_aead_seal(&key, 0, NULL, 0, zero, 0, sealed);
    from_hex(expect, "530f8afbc74536b9a963b4f1c4cb738b");
    CHECK(memcmp(sealed, expect, 16) == 0);
    jv_aead_seal(&key, 0, NULL, 0, zero, 16, sealed);
    from_hex(expect, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    CHECK(memcmp(sealed, expect, 32) == 0);
}

/* Each bit of the counter reaches the nonce. */
static void test_nonce_is_the_counter(void) {
    struct jv_aead_key key;
    uint8_t other[64];

    for (unsigned suite = 1; suite < JV_SUITE_END; suite++) {
        if (!jv_aead_available(suite))
            continue;
        CHECK(make_key(&key, suite));
        for (unsigned bit = 0; bit < 64; bit++) {
            jv_aead_seal(&key, 0, NULL, 0, plain, 16, sealed);
            jv_aead_seal(&key, UINT64_C(1) << bit, NULL, 0, plain, 16, other);
            CHECK(memcmp(sealed, other, 16) != 0);
        }
    }
}

static void test_wipe(void) {
    static const struct jv_aead_key zero;
    struct jv_aead_key key;

    CHECK(make_key(&key, JV_SUITE_CHACHA20POLY1305));
    jv_aead_key_wipe(&key);
    CHECK(memcmp(key.bytes, zero.bytes, sizeof(key.bytes)) == 0 && key.suite == 0);
}

static void test_library_names_itself(void) {
    printf("# libsodium %s, %s\n", jv_sodium_version(), jv_sodium_path());
    CHECK(strstr(jv_sodium_path(), "sodium") != NULL);
}

int main(void) {
    if (jv_aead_init() != 0)
        return 1;
    RUN(test_table);
    RUN(test_key_refused);
    RUN(test_round_trip);
    RUN(test_in_place);
    RUN(test_every_changed_byte_is_refused);
    RUN(test_schedule_changes_nothing);
    RUN(test_vector_rfc8439);
    RUN(test_vector_gcm);
    RUN(test_nonce_is_the_counter);
    RUN(test_wipe);
    RUN(test_library_names_itself);
    return failures();
}
