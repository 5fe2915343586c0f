/* SPDX-License-Identifier: Apache-2.0 */
/* Every segment of a super-packet against the same packet built alone; then headers that nobody honest sends.
 */
#include "jv/split.h"

#include "check.h"
#include "inner.h"

#define MUCH 65535

static uint8_t payload[MUCH];

static struct inner some(uint8_t version, uint8_t proto, size_t payload_bytes) {
    return (struct inner){
        .version = version,
        .proto = proto,
        .from = 1,
        .to = 2,
        .ttl = 64,
        .id = 0xfffe, /* goes round */
        .sport = 40000,
        .dport = 443,
        .seq = 0xffffff00, /* this too */
        .ack = 77,
        .flags = INNER_ACK | INNER_PSH | INNER_FIN | INNER_CWR,
        .window = 512,
        .payload = payload,
        .payload_bytes = payload_bytes,
    };
}

/* What came out of split must be what inner_make makes of each segment. */
static int differing(const struct inner *x, uint16_t gso_size) {
    static uint8_t super[MUCH], expected[MUCH];
    const struct jv_vnet vnet = inner_vnet(x, gso_size);
    const size_t total = inner_make(x, super, true);
    uint8_t *packet = inner_exact(super, total), *segment;
    struct jv_split s;
    struct jv_ip ip;
    uint32_t bytes, n = 0;
    int wrong = 0;
    CHECK(jv_ip_parse(packet, total, &ip) == JV_IP_OK);
    CHECK(jv_split_begin(&s, &vnet, packet, &ip) == 0);
    CHECK(s.segments == inner_segments(x, gso_size));
    const uint32_t largest = jv_split_largest(&s);
    const uint64_t all = jv_split_bytes(&s);
    uint64_t seen = 0;
    for (; (segment = jv_split_next(&s, &bytes)) != NULL; n++, seen += bytes) {
        const struct inner one = inner_segment(x, gso_size, n);
        const size_t wanted = inner_make(&one, expected, false);
        wrong += bytes != wanted || memcmp(segment, expected, wanted) != 0 || bytes > largest ||
                 (n == 0 && bytes != largest);
        memset(segment, 0xee, bytes); /* it is used up */
    }
    CHECK(n == s.segments && seen == all);
    CHECK(jv_split_next(&s, &bytes) == NULL);
    free(packet);
    return wrong;
}

static void every_kind_is_split_as_if_sent_alone(void) {
    static const uint16_t sizes[] = {1, 7, 536, 1000, 1368, 1448};
    for (uint8_t version = 4; version <= 6; version += 2)
        for (int proto = INNER_TCP; proto <= INNER_UDP; proto += INNER_UDP - INNER_TCP)
            for (size_t i = 0; i < JV_ARRAY_LEN(sizes); i++)
                for (unsigned segments = 1; segments <= 45; segments += 11) {
                    struct inner x = some(version, (uint8_t)proto, sizes[i] * segments);
                    CHECK(differing(&x, sizes[i]) == 0);
                    x.payload_bytes -= sizes[i] / 2; /* a shorter one closes it */
                    x.options = 3;
                    x.df = true;
                    CHECK(differing(&x, sizes[i]) == 0);
                }
}

static void options_travel_with_every_segment(void) {
    for (uint8_t version = 4; version <= 6; version += 2)
        for (uint8_t words = 1; words <= 10; words++) {
            struct inner x = some(version, INNER_TCP, 30000);
            x.ip_options = words;
            x.options = words;
            CHECK(differing(&x, 1200) == 0);
            x.proto = INNER_UDP;
            CHECK(differing(&x, 1200) == 0);
        }
}

static void the_largest_and_the_smallest(void) {
    struct inner x = some(4, INNER_TCP, MUCH - 40);
    CHECK(differing(&x, 1460) == 0);
    CHECK(differing(&x, 36) == 0); /* 1,820 segments */
    CHECK(differing(&x, MUCH) == 0);
    x.payload_bytes = 0;
    CHECK(differing(&x, 1460) == 0);
    x.payload_bytes = 1;
    CHECK(differing(&x, 1460) == 0);
}

/* A sum left to us, and nothing to split; as the kernel leaves UDP, TCP and what it knows no name for. */
static void a_checksum_alone(void) {
    static uint8_t made[MUCH], expected[MUCH];
    struct jv_split s;
    struct jv_ip ip;
    uint32_t bytes;
    for (uint8_t version = 4; version <= 6; version += 2)
        for (int proto = INNER_TCP; proto <= INNER_UDP; proto += INNER_UDP - INNER_TCP)
            for (size_t n = 0; n < 50; n++) {
                const struct inner x = some(version, (uint8_t)proto, n);
                const struct jv_vnet vnet = inner_vnet(&x, 0);
                const size_t total = inner_make(&x, made, true);
                uint8_t *packet = inner_exact(made, total);
                CHECK(jv_ip_parse(packet, total, &ip) == JV_IP_OK);
                CHECK(jv_split_begin(&s, &vnet, packet, &ip) == 0);
                CHECK(jv_split_largest(&s) == total && jv_split_bytes(&s) == total && s.segments == 1);
                CHECK(jv_split_next(&s, &bytes) == packet && bytes == total);
                CHECK(inner_make(&x, expected, false) == total && memcmp(packet, expected, total) == 0);
                CHECK(jv_split_next(&s, &bytes) == NULL);
                free(packet);
            }
}

/* The sum of this datagram comes to zero, which on the wire is written as ones. */
static void zero_becomes_ones_in_udp(void) {
    uint8_t made[64];
    struct inner x = some(4, INNER_UDP, 2);
    uint8_t two[2] = {0};
    struct jv_split s;
    struct jv_ip ip;
    x.payload = two;
    inner_make(&x, made, false);
    const uint16_t sum = jv_get_be16(made + 26);
    two[0] = (uint8_t)(sum >> 8), two[1] = (uint8_t)sum;
    const struct jv_vnet vnet = inner_vnet(&x, 0);
    const size_t total = inner_make(&x, made, true);
    CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, made, &ip) == 0);
    CHECK(jv_get_be16(made + 26) == 0xffff);
}

static void a_plain_packet_is_not_touched(void) {
    uint8_t made[128], before[128];
    const struct jv_vnet vnet = {.gso_type = JV_VNET_GSO_NONE, .gso_size = 9, .csum_start = 7};
    const struct inner x = some(4, 253, 60);
    struct jv_split s;
    struct jv_ip ip;
    uint32_t bytes;
    const size_t total = inner_make(&x, made, false);
    memcpy(before, made, total);
    CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, made, &ip) == 0);
    CHECK(jv_split_next(&s, &bytes) == made && bytes == total && memcmp(made, before, total) == 0);
}

enum lie {
    NO_LIE,
    NO_CSUM,
    NO_SIZE,
    UNKNOWN_TYPE,
    OTHER_FAMILY,
    ECN_ON_UDP,
    START_BEFORE,
    START_BEHIND,
    START_FAR,
    WRONG_FIELD,
    OTHER_PROTO,
    SHORT_OFFSET,
    LONG_OFFSET,
    A_FRAGMENT,
    LIES
};

static void lie_about(enum lie lie, struct jv_vnet *vnet, uint8_t *packet) {
    switch (lie) {
    case NO_CSUM:
        vnet->flags = 0;
        break;
    case NO_SIZE:
        vnet->gso_size = 0;
        break;
    case UNKNOWN_TYPE:
        vnet->gso_type = 3; /* UFO */
        break;
    case OTHER_FAMILY:
        vnet->gso_type = JV_VNET_GSO_TCPV6;
        break;
    case ECN_ON_UDP:
        vnet->gso_type = JV_VNET_GSO_UDP_L4 | JV_VNET_GSO_ECN;
        break;
    case START_BEFORE:
        vnet->csum_start = 0;
        break;
    case START_BEHIND:
        vnet->csum_start += 4;
        break;
    case START_FAR:
        vnet->csum_start = 0xffff;
        break;
    case WRONG_FIELD:
        vnet->csum_offset = 6;
        break;
    case OTHER_PROTO:
        packet[9] = INNER_UDP;
        break;
    case SHORT_OFFSET:
        packet[20 + 12] = 0x40;
        break;
    case LONG_OFFSET:
        jv_put_be16(packet + 2, 50); /* 30 bytes of TCP, of which the header claims 60 */
        packet[20 + 12] = 0xf0;
        break;
    case A_FRAGMENT:
        packet[6] = 0x20;
        break;
    default:
        break;
    }
}

static void what_does_not_fit_is_refused_whole(void) {
    for (enum lie lie = NO_LIE; lie < LIES; lie++) {
        uint8_t made[4096], before[4096];
        const struct inner x = some(4, INNER_TCP, 3000);
        struct jv_vnet vnet = inner_vnet(&x, 1000);
        const size_t total = inner_make(&x, made, true);
        struct jv_split s;
        struct jv_ip ip;
        lie_about(lie, &vnet, made);
        memcpy(before, made, total);
        CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK);
        CHECK(jv_split_begin(&s, &vnet, made, &ip) == (lie == NO_LIE ? 0 : -1));
        CHECK(memcmp(made, before, total) == 0);
    }
}

static void too_many_or_too_large(void) {
    static uint8_t made[MUCH];
    struct inner x = some(4, INNER_UDP, 2049);
    struct jv_vnet vnet = inner_vnet(&x, 1);
    struct jv_split s;
    struct jv_ip ip;
    size_t total = inner_make(&x, made, true);
    CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, made, &ip) == -1);
    x.payload_bytes = 2048;
    total = inner_make(&x, made, true);
    CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, made, &ip) == 0);
    x = some(6, INNER_TCP, 5000); /* 40 + 240 + 20 bytes of header */
    x.ip_options = 30;
    vnet = inner_vnet(&x, 1000);
    total = inner_make(&x, made, true);
    CHECK(jv_ip_parse(made, total, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, made, &ip) == -1);
}

/* A field outside of the packet, for a sum that is left to us. */
static void a_field_beyond_the_end(void) {
    uint8_t made[128];
    const struct inner x = some(4, INNER_UDP, 20);
    const size_t total = inner_make(&x, made, true);
    uint8_t *packet = inner_exact(made, total);
    struct jv_vnet vnet = inner_vnet(&x, 0);
    struct jv_split s;
    struct jv_ip ip;
    CHECK(jv_ip_parse(packet, total, &ip) == JV_IP_OK);
    for (uint32_t start = 0; start <= 0xffff; start += 13) {
        vnet.csum_start = (uint16_t)start;
        for (uint32_t offset = 0; offset <= 0xffff; offset += 4099) {
            vnet.csum_offset = (uint16_t)offset;
            CHECK(jv_split_begin(&s, &vnet, packet, &ip) == (start + offset + 2 <= total ? 0 : -1));
        }
    }
    free(packet);
}

int main(void) {
    uint64_t state = 4;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)next_random(&state);
    RUN(every_kind_is_split_as_if_sent_alone);
    RUN(options_travel_with_every_segment);
    RUN(the_largest_and_the_smallest);
    RUN(a_checksum_alone);
    RUN(zero_becomes_ones_in_udp);
    RUN(a_plain_packet_is_not_touched);
    RUN(what_does_not_fit_is_refused_whole);
    RUN(too_many_or_too_large);
    RUN(a_field_beyond_the_end);
    return failures();
}
