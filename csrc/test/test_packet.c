/* SPDX-License-Identifier: Apache-2.0 */
/* Length fields against buffers of every length, checksums against RFC 1071's example, and which packets get
 * an ICMP answer. Packets lie in heap blocks of their exact size, so that a read beyond them ends the
 * program. */
#include "jv/packet.h"

#include <stdlib.h>

#include "check.h"

static uint8_t reply[JV_ICMP_BYTES_MAX];

static void build4(uint8_t *p, uint16_t total, uint8_t proto) {
    static const uint8_t src[4] = {10, 0, 0, 2}, dst[4] = {192, 0, 2, 9};

    memset(p, 0, total);
    p[0] = 0x45;
    jv_put_be16(p + 2, total);
    jv_put_be16(p + 6, 0x4000);
    p[8] = 64;
    p[9] = proto;
    memcpy(p + 12, src, 4);
    memcpy(p + 16, dst, 4);
}

static void build6(uint8_t *p, uint16_t total, uint8_t next) {
    static const uint8_t src[16] = {0xfd, [15] = 2}, dst[16] = {0x20, 1, 0xd, 0xb8, [15] = 9};

    memset(p, 0, total);
    p[0] = 0x60;
    jv_put_be16(p + 4, (uint16_t)(total - 40));
    p[6] = next;
    p[7] = 64;
    memcpy(p + 8, src, 16);
    memcpy(p + 24, dst, 16);
}

/* Parses a copy whose block ends where the packet ends. */
static int parse_copy(const uint8_t *p, size_t len, struct jv_ip *out) {
    uint8_t *copy = malloc(len ? len : 1);
    int rc;

    memcpy(copy, p, len);
    rc = jv_ip_parse(copy, len, out);
    free(copy);
    return rc;
}

static size_t reply_to_copy(enum jv_icmp_kind kind, const uint8_t *p, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    size_t bytes;

    memcpy(copy, p, len);
    bytes = jv_icmp_reply(kind, copy, len, 1280, reply);
    free(copy);
    return bytes;
}

static void test_parse4(void) {
    uint8_t p[100];
    struct jv_ip ip;

    build4(p, 60, 6);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == 0);
    CHECK(ip.version == 4 && ip.total_bytes == 60 && ip.header_bytes == 20 && ip.proto == 6);
    CHECK(ip.src == p + 12 && ip.dst == p + 16 && !ip.fragment && ip.first_fragment);
    for (size_t len = 0; len < 60; len++)
        CHECK(parse_copy(p, len, &ip) == (len < 20 ? JV_IP_SHORT : JV_IP_LENGTH));
    p[0] = 0x44; /* header of 16 bytes */
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == JV_IP_LENGTH);
    p[0] = 0x4f; /* header of 60 */
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == 0 && ip.header_bytes == 60);
    jv_put_be16(p + 2, 59);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == JV_IP_LENGTH);
}

static void test_parse4_fragments(void) {
    uint8_t p[100];
    struct jv_ip ip;

    build4(p, 60, 17);
    jv_put_be16(p + 6, 0x2000);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == 0 && ip.fragment && ip.first_fragment);
    jv_put_be16(p + 6, 0x0001);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == 0 && ip.fragment && !ip.first_fragment);
}

static void test_parse6(void) {
    uint8_t p[100];
    struct jv_ip ip;

    build6(p, 80, 17);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == 0);
    CHECK(ip.version == 6 && ip.total_bytes == 80 && ip.proto == 17 && ip.src == p + 8 && ip.dst == p + 24);
    for (size_t len = 0; len < 80; len++)
        CHECK(parse_copy(p, len, &ip) == (len < 40 ? JV_IP_SHORT : JV_IP_LENGTH));
    jv_put_be16(p + 4, 0xffff);
    CHECK(jv_ip_parse(p, sizeof(p), &ip) == JV_IP_LENGTH);
}

static void test_other_versions(void) {
    uint8_t p[100] = {0};
    struct jv_ip ip;

    for (unsigned first = 0; first < 256; first++) {
        p[0] = (uint8_t)first;
        if (first >> 4 != 4 && first >> 4 != 6)
            CHECK(jv_ip_parse(p, sizeof(p), &ip) == JV_IP_VERSION);
    }
}

static void test_checksum(void) {
    /* RFC 1071 §3 */
    static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    static uint8_t ones[65536];
    uint16_t folded = jv_checksum_fold(jv_checksum_add(0, example, sizeof(example)));

    CHECK(jv_get_be16(&folded) == (uint16_t)~0xddf2);
    CHECK(jv_checksum_fold(jv_checksum_add(jv_checksum_add(0, example, 2), example + 2, 6)) == folded);
    CHECK(jv_checksum_fold(jv_checksum_add(jv_checksum_add(0, example, 6), example + 6, 2)) == folded);
    memset(ones, 0xff, sizeof(ones));
    CHECK(jv_checksum_fold(jv_checksum_add(UINT32_MAX, ones, sizeof(ones))) == 0);
    CHECK(jv_checksum_fold(jv_checksum_add(0, example, 0)) == 0xffff);
    folded = jv_checksum_fold(jv_checksum_add(0, "\x12\x34\x56", 3));
    CHECK(jv_get_be16(&folded) == (uint16_t)~(0x1234 + 0x5600));
}

static void test_too_big4(void) {
    uint8_t p[1500];
    size_t bytes;

    build4(p, sizeof(p), 6);
    bytes = reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p));
    CHECK(bytes == 576);
    CHECK(jv_get_be16(reply + 2) == bytes && reply[9] == 1);
    CHECK(memcmp(reply + 12, p + 16, 4) == 0 && memcmp(reply + 16, p + 12, 4) == 0);
    CHECK(reply[20] == 3 && reply[21] == 4 && jv_get_be16(reply + 26) == 1280);
    CHECK(memcmp(reply + 28, p, 548) == 0);
    CHECK(jv_checksum_fold(jv_checksum_add(0, reply, 20)) == 0);
    CHECK(jv_checksum_fold(jv_checksum_add(0, reply + 20, bytes - 20)) == 0);
    jv_put_be16(p + 6, 0);
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0); /* may be fragmented */
    CHECK(reply_to_copy(JV_ICMP_NO_ROUTE, p, sizeof(p)) == 576 && reply[21] == 0);
    CHECK(reply_to_copy(JV_ICMP_HOST_UNREACH, p, sizeof(p)) == 576 && reply[21] == 1);
    CHECK(reply_to_copy(JV_ICMP_ADMIN, p, sizeof(p)) == 576 && reply[21] == 13);
}

static void test_too_big6(void) {
    uint8_t p[1500];
    struct jv_ip ip;
    size_t bytes;

    build6(p, sizeof(p), 6);
    bytes = reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p));
    CHECK(bytes == 1280 && jv_ip_parse(reply, bytes, &ip) == 0);
    CHECK(memcmp(reply + 8, p + 24, 16) == 0 && memcmp(reply + 24, p + 8, 16) == 0);
    CHECK(reply[40] == 2 && reply[41] == 0 && jv_get_be32(reply + 44) == 1280);
    CHECK(jv_checksum_fold(jv_checksum_add(jv_checksum_pseudo(&ip, 58, (uint32_t)bytes - 40), reply + 40,
                                           bytes - 40)) == 0);
    CHECK(reply_to_copy(JV_ICMP_NO_ROUTE, p, 1500) == 1280 && reply[40] == 1 && reply[41] == 0);
    CHECK(reply_to_copy(JV_ICMP_HOST_UNREACH, p, 1500) == 1280 && reply[41] == 3);
    CHECK(reply_to_copy(JV_ICMP_ADMIN, p, 1500) == 1280 && reply[41] == 1);
}

static void test_short_packet_is_quoted_whole(void) {
    uint8_t p[200];

    build4(p, 30, 17);
    CHECK(reply_to_copy(JV_ICMP_NO_ROUTE, p, 30) == 58);
    memset(p + 30, 0xee, 10); /* padding is not part of it */
    CHECK(reply_to_copy(JV_ICMP_NO_ROUTE, p, 40) == 58);
    build6(p, 40, 59);
    CHECK(reply_to_copy(JV_ICMP_NO_ROUTE, p, 40) == 88);
}

static bool answers4(size_t at, uint8_t value, uint8_t proto) {
    uint8_t p[60];

    build4(p, sizeof(p), proto);
    p[at] = value;
    return reply_to_copy(JV_ICMP_NO_ROUTE, p, sizeof(p)) > 0;
}

static void test_never_answered4(void) {
    static const uint8_t sources[] = {0, 127, 224, 239, 240, 255};

    CHECK(answers4(8, 64, 17));
    for (size_t i = 0; i < sizeof(sources); i++)
        CHECK(!answers4(12, sources[i], 17));
    CHECK(!answers4(16, 224, 17)); /* to multicast */
    CHECK(!answers4(16, 255, 17)); /* to broadcast */
    CHECK(!answers4(7, 1, 17));    /* a later fragment */
    CHECK(answers4(20, 8, 1));     /* echo request */
    CHECK(answers4(20, 0, 1));     /* echo reply */
    for (unsigned type = 1; type < 8; type++)
        CHECK(!answers4(20, (uint8_t)type, 1)); /* errors, source quench, redirect */
    CHECK(!answers4(20, 11, 1) && !answers4(20, 12, 1) && !answers4(20, 200, 1));
}

static bool answers6(size_t at, uint8_t value, uint8_t next) {
    uint8_t p[80];

    build6(p, sizeof(p), next);
    p[at] = value;
    return reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) > 0;
}

static void test_never_answered6(void) {
    uint8_t p[80];

    CHECK(answers6(7, 64, 17));
    CHECK(!answers6(8, 0xff, 17) && !answers6(24, 0xff, 17));
    build6(p, sizeof(p), 17);
    memset(p + 8, 0, 16);
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0); /* from :: */
    CHECK(answers6(40, 128, 58) && answers6(40, 129, 58));
    for (unsigned type = 0; type < 128; type++)
        CHECK(!answers6(40, (uint8_t)type, 58));
    CHECK(!answers6(40, 137, 58));
    build6(p, sizeof(p), 0); /* hop-by-hop, then an ICMPv6 error */
    p[40] = 58;
    p[48] = 1;
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0);
    p[48] = 128;
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) > 0);
    p[41] = 255; /* extension header beyond the packet */
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0);
    build6(p, sizeof(p), 44);
    p[43] = 8; /* offset 1 */
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0);
    build6(p, sizeof(p), 60); /* destination options that name themselves for ever */
    for (size_t i = 40; i < sizeof(p); i += 8)
        p[i] = 60;
    CHECK(reply_to_copy(JV_ICMP_TOO_BIG, p, sizeof(p)) == 0);
}

static void test_garbage(void) {
    uint64_t seed = 5;
    uint8_t p[128];

    for (int i = 0; i < 200000; i++) {
        size_t len = next_random(&seed) % sizeof(p), bytes;
        struct jv_ip ip;

        for (size_t at = 0; at < len; at++)
            p[at] = (uint8_t)next_random(&seed);
        if (len > 6 && i % 2) {
            p[0] = i % 4 == 1 ? 0x45 : 0x60;
            p[2] = p[4] = 0;
        }
        if (parse_copy(p, len, &ip) == 0)
            CHECK(ip.total_bytes <= len && ip.header_bytes <= ip.total_bytes);
        bytes = reply_to_copy((enum jv_icmp_kind)(i % 4), p, len);
        CHECK(bytes <= sizeof(reply));
    }
}

int main(void) {
    RUN(test_parse4);
    RUN(test_parse4_fragments);
    RUN(test_parse6);
    RUN(test_other_versions);
    RUN(test_checksum);
    RUN(test_too_big4);
    RUN(test_too_big6);
    RUN(test_short_packet_is_quoted_whole);
    RUN(test_never_answered4);
    RUN(test_never_answered6);
    RUN(test_garbage);
    return failures();
}
