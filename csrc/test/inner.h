/* SPDX-License-Identifier: Apache-2.0 */
/* Inner packets as a host would make them, built field by field and summed byte by byte: nothing here is
 * shared with what is tested. A super-packet is the same packet with all its payload and the sum of the
 * pseudo-header in the checksum field. */
#ifndef JV_TEST_INNER_H
#define JV_TEST_INNER_H

#include "jv/packet.h"
#include "jv/vnet.h"

#include <stdlib.h>

#define INNER_FIN 0x01u
#define INNER_SYN 0x02u
#define INNER_RST 0x04u
#define INNER_PSH 0x08u
#define INNER_ACK 0x10u
#define INNER_URG 0x20u
#define INNER_ECE 0x40u
#define INNER_CWR 0x80u

#define INNER_TCP 6
#define INNER_UDP 17

struct inner {
    uint8_t version;  /* 4 or 6 */
    uint8_t proto;    /* 6, 17, or anything: payload alone */
    uint8_t from, to; /* last byte of the addresses */
    uint8_t ttl, tos;
    bool df;
    uint8_t ip_options;    /* IPv4: words of NOP; IPv6: blocks of 8 bytes of destination options */
    uint8_t options;       /* TCP: words */
    uint16_t id, fragment; /* fragment: the 13 bits of offset and MF at 0x2000 */
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window;
    uint32_t stamp; /* what the TCP options hold */
    const uint8_t *payload;
    size_t payload_bytes;
};

static inline uint32_t inner_sum(uint32_t sum, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static inline size_t inner_ip_bytes(const struct inner *x) {
    return x->version == 4 ? 20u + 4u * x->ip_options : 40u + 8u * x->ip_options;
}

static inline size_t inner_transport_bytes(const struct inner *x) {
    if (x->proto == INNER_TCP)
        return 20u + 4u * x->options;
    return x->proto == INNER_UDP ? 8 : 0;
}

static inline size_t inner_header_bytes(const struct inner *x) {
    return inner_ip_bytes(x) + inner_transport_bytes(x);
}

static inline void inner_put_ip4(const struct inner *x, uint8_t *p, size_t total) {
    const size_t header = inner_ip_bytes(x);
    memset(p, 0, 20);
    memset(p + 20, 1, header - 20);
    p[0] = (uint8_t)(0x40 | header / 4);
    p[1] = x->tos;
    jv_put_be16(p + 2, (uint16_t)total);
    jv_put_be16(p + 4, x->id);
    jv_put_be16(p + 6, (uint16_t)((x->df ? 0x4000 : 0) | x->fragment));
    p[8] = x->ttl;
    p[9] = x->proto;
    p[12] = p[16] = 10;
    p[15] = x->from;
    p[19] = x->to;
    jv_put_be16(p + 10, (uint16_t)~inner_sum(0, p, header));
}

static inline void inner_put_ip6(const struct inner *x, uint8_t *p, size_t total) {
    const size_t header = inner_ip_bytes(x);
    memset(p, 0, header);
    p[0] = (uint8_t)(0x60 | x->tos >> 4);
    p[1] = (uint8_t)(x->tos << 4);
    jv_put_be16(p + 4, (uint16_t)(total - 40));
    p[6] = x->ip_options ? 60 : x->proto;
    p[7] = x->ttl;
    p[8] = p[24] = 0xfd;
    p[23] = x->from;
    p[39] = x->to;
    if (x->ip_options) {
        p[40] = x->proto;
        p[41] = (uint8_t)(x->ip_options - 1);
        p[42] = 1; /* PadN over the rest */
        p[43] = (uint8_t)(header - 44);
    }
}

static inline void inner_put_tcp(const struct inner *x, uint8_t *t) {
    const size_t bytes = inner_transport_bytes(x);
    memset(t, 0, 20);
    jv_put_be16(t, x->sport);
    jv_put_be16(t + 2, x->dport);
    jv_put_be32(t + 4, x->seq);
    jv_put_be32(t + 8, x->ack);
    t[12] = (uint8_t)(bytes / 4 << 4);
    t[13] = x->flags;
    jv_put_be16(t + 14, x->window);
    for (size_t at = 20; at < bytes; at += 4)
        jv_put_be32(t + at, x->stamp + (uint32_t)at);
}

static inline uint32_t inner_pseudo(const struct inner *x, const uint8_t *p, size_t covered) {
    const uint8_t tail[4] = {0, x->proto, (uint8_t)(covered >> 8), (uint8_t)covered};
    const uint32_t sum = x->version == 4 ? inner_sum(0, p + 12, 8) : inner_sum(0, p + 8, 32);
    return inner_sum(sum, tail, 4);
}

/* partial: the field gets the sum of the pseudo-header, as a kernel leaves it to an offload. */
static inline size_t inner_make(const struct inner *x, uint8_t *p, bool partial) {
    const size_t ip = inner_ip_bytes(x), header = inner_header_bytes(x), total = header + x->payload_bytes;
    uint8_t *t = p + ip;
    if (x->version == 4)
        inner_put_ip4(x, p, total);
    else
        inner_put_ip6(x, p, total);
    if (x->payload_bytes)
        memcpy(p + header, x->payload, x->payload_bytes);
    if (header == ip)
        return total;
    if (x->proto == INNER_TCP) {
        inner_put_tcp(x, t);
    } else {
        jv_put_be16(t, x->sport);
        jv_put_be16(t + 2, x->dport);
        jv_put_be32(t + 4, (uint32_t)(total - ip) << 16);
    }
    uint32_t sum = inner_pseudo(x, p, total - ip);
    if (!partial)
        sum = ~inner_sum(sum, t, total - ip) & 0xffff;
    if (!partial && sum == 0 && x->proto == INNER_UDP)
        sum = 0xffff;
    jv_put_be16(t + (x->proto == INNER_TCP ? 16 : 6), (uint16_t)sum);
    return total;
}

static inline struct jv_vnet inner_vnet(const struct inner *x, uint16_t gso_size) {
    const uint8_t tso = x->version == 4 ? JV_VNET_GSO_TCPV4 : JV_VNET_GSO_TCPV6;
    return (struct jv_vnet){
        .flags = JV_VNET_NEEDS_CSUM,
        .gso_type = gso_size == 0           ? JV_VNET_GSO_NONE
                    : x->proto == INNER_TCP ? tso
                                            : JV_VNET_GSO_UDP_L4,
        .gso_size = gso_size,
        .csum_start = (uint16_t)inner_ip_bytes(x),
        .csum_offset = x->proto == INNER_TCP ? 16 : 6,
    };
}

static inline uint32_t inner_segments(const struct inner *x, uint16_t gso_size) {
    return x->payload_bytes ? (uint32_t)((x->payload_bytes + gso_size - 1) / gso_size) : 1;
}

/* What segment number `n` of the super-packet must be. */
static inline struct inner inner_segment(const struct inner *x, uint16_t gso_size, uint32_t n) {
    struct inner one = *x;
    const size_t at = (size_t)n * gso_size, left = x->payload_bytes - at;
    one.payload = x->payload + at;
    one.payload_bytes = left < gso_size ? left : gso_size;
    one.id = (uint16_t)(x->id + n);
    one.seq = x->seq + (uint32_t)at;
    if (n + 1 < inner_segments(x, gso_size))
        one.flags &= (uint8_t)~(INNER_FIN | INNER_PSH);
    if (n > 0)
        one.flags &= (uint8_t)~INNER_CWR;
    return one;
}

/* A block of its exact size, so that a read or write beyond it ends the program. */
static inline uint8_t *inner_exact(const uint8_t *p, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, p, n);
    return copy;
}

#endif
