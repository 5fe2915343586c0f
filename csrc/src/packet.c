/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing is read from a packet before its length was found sufficient for it. An ICMP answer is built only
 * where RFC 1122 §3.2.2 and RFC 4443 §2.4 e allow one, so that answers cannot chase each other. */
#include "jv/packet.h"

#include <netinet/in.h>

enum {
    IP4_HEADER = 20,
    IP6_HEADER = 40,
    ICMP_HEADER = 8,
    ICMP4_QUOTE_MAX = 548,
    HOP_LIMIT = 64,
    EXTENSIONS_MAX = 8, /* IPv6 extension headers worth following */
};

#define IP4_DF     0x4000u
#define IP4_MF     0x2000u
#define IP4_OFFSET 0x1fffu

static int parse4(const uint8_t *p, size_t len, struct jv_ip *out) {
    uint16_t header_bytes, total_bytes, fragment;

    if (len < IP4_HEADER)
        return JV_IP_SHORT;
    header_bytes = (uint16_t)((p[0] & 0x0f) * 4);
    total_bytes = jv_get_be16(p + 2);
    if (header_bytes < IP4_HEADER || total_bytes < header_bytes || total_bytes > len)
        return JV_IP_LENGTH;
    fragment = jv_get_be16(p + 6);
    *out = (struct jv_ip){
        .src = p + 12,
        .dst = p + 16,
        .total_bytes = total_bytes,
        .header_bytes = header_bytes,
        .version = 4,
        .proto = p[9],
        .fragment = (fragment & (IP4_MF | IP4_OFFSET)) != 0,
        .first_fragment = (fragment & IP4_OFFSET) == 0,
    };
    return JV_IP_OK;
}

static int parse6(const uint8_t *p, size_t len, struct jv_ip *out) {
    size_t total_bytes;

    if (len < IP6_HEADER)
        return JV_IP_SHORT;
    total_bytes = IP6_HEADER + (size_t)jv_get_be16(p + 4);
    if (total_bytes > len || total_bytes > UINT16_MAX)
        return JV_IP_LENGTH;
    *out = (struct jv_ip){
        .src = p + 8,
        .dst = p + 24,
        .total_bytes = (uint16_t)total_bytes,
        .header_bytes = IP6_HEADER,
        .version = 6,
        .proto = p[6],
        .first_fragment = true,
    };
    return JV_IP_OK;
}

int jv_ip_parse(const uint8_t *p, size_t len, struct jv_ip *out) {
    if (len < 1)
        return JV_IP_SHORT;
    switch (p[0] >> 4) {
    case 4:
        return parse4(p, len, out);
    case 6:
        return parse6(p, len, out);
    default:
        return JV_IP_VERSION;
    }
}

/* --- checksums (RFC 1071): the sum does not depend on byte order, so words are added as they lie --- */

static uint32_t fold_to_17_bits(uint64_t sum) {
    sum = (sum & UINT32_MAX) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    return (uint32_t)((sum & 0xffff) + (sum >> 16));
}

/* One's complement addition: the carry comes back in at the bottom. */
static inline uint64_t add_carry(uint64_t sum, uint64_t word) {
    sum += word;
    return sum + (sum < word);
}

#define BLOCK_BYTES 64u

/* Where the compiler can build a function twice, the wider one is chosen when the library is loaded. That is
 * too early for TSan. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define WITH_WIDER_VARIANT __attribute__((target_clones("avx2", "default")))
#else
#define WITH_WIDER_VARIANT
#endif

typedef uint64_t lanes __attribute__((vector_size(32)));

/* Halves of 64-bit words are added apart, so no lane overflows before 2^32 of them. 1,400 bytes cost 38 ns
 * with AVX2, 87 without, 97 word by word; a packet that is split or merged is summed once. */
WITH_WIDER_VARIANT static uint64_t sum_blocks(const uint8_t *p, size_t blocks) {
    const lanes low = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    lanes a = {0}, b = {0}, x, y;

    for (; blocks > 0; blocks--, p += BLOCK_BYTES) {
        memcpy(&x, p, sizeof(x));
        memcpy(&y, p + sizeof(x), sizeof(y));
        a += (x & low) + (y & low);
        b += (x >> 32) + (y >> 32);
    }
    a += b;
    return add_carry(add_carry(add_carry(a[0], a[1]), a[2]), a[3]);
}

uint32_t jv_checksum_add(uint32_t sum, const void *data, size_t len) {
    const uint8_t *p = data;
    uint64_t wide = sum, word;

    if (len >= BLOCK_BYTES) {
        wide = add_carry(wide, sum_blocks(p, len / BLOCK_BYTES));
        p += len / BLOCK_BYTES * BLOCK_BYTES;
        len %= BLOCK_BYTES;
    }
    for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        wide = add_carry(wide, word);
    }
    word = 0; /* the rest counts as if zeros followed it */
    memcpy(&word, p, len);
    return fold_to_17_bits(add_carry(wide, word));
}

uint16_t jv_checksum_fold(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint32_t jv_checksum_pseudo(const struct jv_ip *ip, uint8_t proto, uint32_t bytes) {
    size_t address_bytes = ip->version == 4 ? 4 : 16;
    uint8_t tail[8] = {0};
    uint32_t sum = jv_checksum_add(0, ip->src, address_bytes);

    sum = jv_checksum_add(sum, ip->dst, address_bytes);
    jv_put_be32(tail, bytes);
    tail[7] = proto;
    return jv_checksum_add(sum, tail, sizeof(tail));
}

/* --- may this packet be answered? --- */

/* Queries and answers of RFC 792, 950, 1256, 8335. All else, unknown types too, counts as an error. */
static bool icmp4_is_query(uint8_t type) {
    return type == 0 || (type >= 8 && type <= 10) || (type >= 13 && type <= 18) || type == 42 || type == 43;
}

/* An address that names one host; RFC 1122 §3.2.2. */
static bool single_host4(const uint8_t *a) {
    return a[0] != 0 && a[0] != 127 && a[0] < 224;
}

static bool may_answer4(const uint8_t *p, const struct jv_ip *ip, enum jv_icmp_kind kind) {
    if (!ip->first_fragment || !single_host4(ip->src) || !single_host4(ip->dst))
        return false;
    if (kind == JV_ICMP_TOO_BIG && !(jv_get_be16(p + 6) & IP4_DF))
        return false;
    if (ip->proto != IPPROTO_ICMP)
        return true;
    return ip->total_bytes > ip->header_bytes && icmp4_is_query(p[ip->header_bytes]);
}

static bool unspecified6(const uint8_t *a) {
    static const uint8_t zero[16];

    return memcmp(a, zero, sizeof(zero)) == 0;
}

/* Where the ICMPv6 type lies: 0 if the packet is not ICMPv6, -1 if that cannot be told. */
static int find_icmp6(const uint8_t *p, const struct jv_ip *ip) {
    size_t at = IP6_HEADER;
    uint8_t header = ip->proto;

    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        bool fragment = header == IPPROTO_FRAGMENT;

        if (header == IPPROTO_ICMPV6)
            return at < ip->total_bytes ? (int)at : -1;
        if (!fragment && header != IPPROTO_HOPOPTS && header != IPPROTO_ROUTING && header != IPPROTO_DSTOPTS)
            return 0;
        if (at + 8 > ip->total_bytes)
            return -1;
        if (fragment && jv_get_be16(p + at + 2) & 0xfff8)
            return -1; /* a later one: its beginning travels elsewhere */
        header = p[at];
        at += fragment ? 8 : 8 + p[at + 1] * 8u;
    }
    return -1;
}

static bool may_answer6(const uint8_t *p, const struct jv_ip *ip) {
    int type_at;

    if (ip->src[0] == 0xff || ip->dst[0] == 0xff || unspecified6(ip->src) || unspecified6(ip->dst))
        return false;
    type_at = find_icmp6(p, ip);
    if (type_at <= 0)
        return type_at == 0;
    return p[type_at] >= 128 && p[type_at] != 137; /* neither an error nor a redirect */
}

/* --- building --- */

static size_t at_most(size_t a, size_t b) {
    return a < b ? a : b;
}

static void put_checksum(uint8_t *at, uint32_t sum) {
    uint16_t folded = jv_checksum_fold(sum);

    memcpy(at, &folded, sizeof(folded));
}

/* Type 3 with one of these codes. */
static const uint8_t codes4[] = {
    [JV_ICMP_TOO_BIG] = 4,
    [JV_ICMP_NO_ROUTE] = 0,
    [JV_ICMP_HOST_UNREACH] = 1,
    [JV_ICMP_ADMIN] = 13,
};

static size_t reply4(enum jv_icmp_kind kind, const uint8_t *p, const struct jv_ip *ip, uint32_t mtu,
                     uint8_t *out) {
    size_t quoted = at_most(ip->total_bytes, ICMP4_QUOTE_MAX);
    uint8_t *icmp = out + IP4_HEADER;

    memset(out, 0, IP4_HEADER + ICMP_HEADER);
    out[0] = 0x45;
    out[1] = 0xc0; /* internetwork control, RFC 1812 §4.3.2.5 */
    jv_put_be16(out + 2, (uint16_t)(IP4_HEADER + ICMP_HEADER + quoted));
    jv_put_be16(out + 6, IP4_DF); /* an atomic datagram needs no identification, RFC 6864 */
    out[8] = HOP_LIMIT;
    out[9] = IPPROTO_ICMP;
    memcpy(out + 12, ip->dst, 4);
    memcpy(out + 16, ip->src, 4);
    put_checksum(out + 10, jv_checksum_add(0, out, IP4_HEADER));
    icmp[0] = 3;
    icmp[1] = codes4[kind];
    if (kind == JV_ICMP_TOO_BIG)
        jv_put_be16(icmp + 6, (uint16_t)at_most(mtu, UINT16_MAX));
    memcpy(icmp + ICMP_HEADER, p, quoted);
    put_checksum(icmp + 2, jv_checksum_add(0, icmp, ICMP_HEADER + quoted));
    return IP4_HEADER + ICMP_HEADER + quoted;
}

static const struct {
    uint8_t type, code;
} codes6[] = {
    [JV_ICMP_TOO_BIG] = {2, 0},
    [JV_ICMP_NO_ROUTE] = {1, 0},
    [JV_ICMP_HOST_UNREACH] = {1, 3},
    [JV_ICMP_ADMIN] = {1, 1},
};

static size_t reply6(enum jv_icmp_kind kind, const uint8_t *p, const struct jv_ip *ip, uint32_t mtu,
                     uint8_t *out) {
    size_t quoted = at_most(ip->total_bytes, JV_ICMP_BYTES_MAX - IP6_HEADER - ICMP_HEADER);
    size_t icmp_bytes = ICMP_HEADER + quoted;
    uint8_t *icmp = out + IP6_HEADER;
    const struct jv_ip reply = {.src = out + 8, .dst = out + 24, .version = 6};

    memset(out, 0, IP6_HEADER + ICMP_HEADER);
    out[0] = 0x60;
    jv_put_be16(out + 4, (uint16_t)icmp_bytes);
    out[6] = IPPROTO_ICMPV6;
    out[7] = HOP_LIMIT;
    memcpy(out + 8, ip->dst, 16);
    memcpy(out + 24, ip->src, 16);
    icmp[0] = codes6[kind].type;
    icmp[1] = codes6[kind].code;
    if (kind == JV_ICMP_TOO_BIG)
        jv_put_be32(icmp + 4, mtu);
    memcpy(icmp + ICMP_HEADER, p, quoted);
    put_checksum(icmp + 2, jv_checksum_add(jv_checksum_pseudo(&reply, IPPROTO_ICMPV6, (uint32_t)icmp_bytes),
                                           icmp, icmp_bytes));
    return IP6_HEADER + icmp_bytes;
}

size_t jv_icmp_reply(enum jv_icmp_kind kind, const uint8_t *p, size_t len, uint32_t mtu, uint8_t *out) {
    struct jv_ip ip;

    if (jv_ip_parse(p, len, &ip) != JV_IP_OK)
        return 0;
    if (ip.version == 4)
        return may_answer4(p, &ip, kind) ? reply4(kind, p, &ip, mtu, out) : 0;
    return may_answer6(p, &ip) ? reply6(kind, p, &ip, mtu, out) : 0;
}
