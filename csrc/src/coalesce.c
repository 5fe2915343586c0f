/* SPDX-License-Identifier: Apache-2.0 */
/* What may follow what is the kernel's own rule (GRO): same flow, same header but for length, sequence,
 * identification and checksum, next in sequence, not longer than the ones before. PSH, FIN and a shorter
 * packet end a super-packet; SYN, RST, URG, CWR, fragments and IP options are never part of one. */
#include "jv/coalesce.h"

#include <netinet/in.h>

enum {
    NONE = 0xffff,
    IP4_HEADER = 20,
    IP6_HEADER = 40,
    TCP_HEADER = 20,
    TCP_CHECKSUM = 16,
    UDP_HEADER = 8,
    UDP_CHECKSUM = 6,
    TOTAL_MAX = 65535, /* of an IPv4 packet, and what the device takes */
};

#define IP4_DF  0x40u
#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_URG 0x20u
#define TCP_CWR 0x80u

/* What is looked at of a packet with a TCP or UDP header. */
struct view {
    uint8_t *packet;
    uint32_t total_bytes;
    uint32_t payload_bytes;
    uint16_t transport_at;
    uint16_t header_bytes;
    uint8_t version;
    uint8_t proto;
    bool plain; /* may be part of a super-packet */
    bool ends;  /* and then nothing may follow it */
};

void jv_coalesce_reset(struct jv_coalesce *c, unsigned features) {
    c->features = features;
    c->pieces_used = c->groups_used = 0;
    memset(c->open, 0xff, sizeof c->open);
}

/* --- looking at one packet --- */

static unsigned feature_of(uint8_t version, uint8_t proto) {
    if (proto == IPPROTO_TCP)
        return version == 4 ? JV_TUN_TSO4 : JV_TUN_TSO6;
    return version == 4 ? JV_TUN_USO4 : JV_TUN_USO6;
}

static void look_tcp(struct view *v) {
    const unsigned flags = v->packet[v->transport_at + 13];
    v->plain = (flags & (TCP_SYN | TCP_RST | TCP_URG | TCP_CWR | TCP_ACK)) == TCP_ACK && v->payload_bytes > 0;
    v->ends = flags & (TCP_PSH | TCP_FIN);
}

/* Its length field must agree with IP's, or what lies behind it would become data. */
static void look_udp(struct view *v) {
    const uint8_t *udp = v->packet + v->transport_at;
    v->plain = v->payload_bytes > 0 && jv_get_be16(udp + 4) == v->total_bytes - v->transport_at &&
               jv_get_be16(udp + UDP_CHECKSUM) != 0;
    v->ends = false;
}

/* False when its flow cannot be told: neither TCP nor UDP, a fragment, options, cut short. */
static bool look(struct view *v, uint8_t *packet, const struct jv_ip *ip) {
    const uint32_t at = ip->header_bytes, least = ip->proto == IPPROTO_TCP ? TCP_HEADER : UDP_HEADER;
    if ((ip->proto != IPPROTO_TCP && ip->proto != IPPROTO_UDP) || ip->fragment ||
        at != (ip->version == 4 ? IP4_HEADER : IP6_HEADER) || at + least > ip->total_bytes)
        return false;
    const uint32_t bytes = ip->proto == IPPROTO_TCP ? (packet[at + 12] >> 4) * 4u : UDP_HEADER;
    if (bytes < least || at + bytes > ip->total_bytes)
        return false;
    *v = (struct view){
        .packet = packet,
        .total_bytes = ip->total_bytes,
        .payload_bytes = ip->total_bytes - at - bytes,
        .transport_at = (uint16_t)at,
        .header_bytes = (uint16_t)(at + bytes),
        .version = ip->version,
        .proto = ip->proto,
    };
    if (ip->proto == IPPROTO_TCP)
        look_tcp(v);
    else
        look_udp(v);
    return true;
}

/* Addresses are told apart by their ends. Whoever aims at a slot only keeps flows from merging. */
static unsigned slot_of(const struct view *v) {
    const uint8_t *addresses_end = v->packet + v->transport_at;
    uint32_t src, dst, ports;
    memcpy(&dst, addresses_end - 4, 4);
    memcpy(&src, addresses_end - (v->version == 4 ? 8 : 20), 4);
    memcpy(&ports, addresses_end, 4);
    const uint64_t mixed = ((uint64_t)(src ^ ports) << 32 | dst) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)((mixed ^ mixed >> 32) * UINT64_C(0xd6e8feb86659fd93) >> 58) % JV_COALESCE_FLOWS;
}

static uint32_t pseudo_sum(const uint8_t *packet, uint8_t version, uint8_t proto, uint32_t at,
                           uint32_t total_bytes) {
    const uint32_t address_bytes = version == 4 ? 4 : 16;
    const struct jv_ip ip = {
        .src = packet + at - 2 * address_bytes, .dst = packet + at - address_bytes, .version = version};
    return jv_checksum_pseudo(&ip, proto, total_bytes - at);
}

static bool checksum_good(const uint8_t *packet, uint8_t version, uint8_t proto, uint32_t at,
                          uint32_t total_bytes) {
    const uint32_t sum = pseudo_sum(packet, version, proto, at, total_bytes);
    if (version == 4 && jv_checksum_fold(jv_checksum_add(0, packet, at)) != 0)
        return false;
    return jv_checksum_fold(jv_checksum_add(sum, packet + at, total_bytes - at)) == 0;
}

/* --- may it follow? --- */

static bool same_ip4(const uint8_t *a, const uint8_t *b, uint16_t merged) {
    const uint16_t expected = (uint16_t)(jv_get_be16(a + 4) + merged);
    /* Version, length of header, TOS; flags and offset, TTL, protocol; addresses. An identification counts
     * up, but says nothing beside DF (RFC 6864). */
    return memcmp(a, b, 2) == 0 && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, 8) == 0 &&
           (a[6] & IP4_DF || jv_get_be16(b + 4) == expected);
}

static bool same_ip6(const uint8_t *a, const uint8_t *b) {
    return memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, IP6_HEADER - 6) == 0;
}

/* Ports, acknowledgement, length, window, urgent pointer and options; of the flags only PSH and FIN may come
 * new. */
static bool same_tcp(const uint8_t *a, const uint8_t *b, uint32_t bytes) {
    return memcmp(a, b, 4) == 0 && memcmp(a + 8, b + 8, 5) == 0 &&
           ((a[13] ^ b[13]) & ~(TCP_PSH | TCP_FIN)) == 0 && memcmp(a + 14, b + 14, 2) == 0 &&
           memcmp(a + 18, b + 18, bytes - 18) == 0;
}

static bool same_header(const struct view *v, const uint8_t *first, const struct jv_group *g) {
    const uint8_t *a = first + g->transport_at, *b = v->packet + v->transport_at;
    if (v->version != g->version || v->proto != g->proto || v->header_bytes != g->header_bytes)
        return false;
    if (v->version == 4 ? !same_ip4(first, v->packet, g->merged) : !same_ip6(first, v->packet))
        return false;
    if (v->proto == IPPROTO_UDP)
        return memcmp(a, b, 4) == 0;
    return jv_get_be32(b + 4) == g->next_seq && same_tcp(a, b, v->header_bytes - v->transport_at);
}

/* Sums are the dear part, so they come last; a packet that stays alone is never summed, the kernel does it.
 */
static bool may_follow(struct jv_coalesce *c, struct jv_group *g, const struct view *v) {
    const struct jv_piece *first = &c->piece[g->first];
    if (!v->plain || v->payload_bytes > g->payload_bytes || g->merged == JV_COALESCE_MERGED_MAX ||
        g->total_bytes + v->payload_bytes > TOTAL_MAX || !same_header(v, first->data, g))
        return false;
    if (!g->verified) {
        if (!checksum_good(first->data, g->version, g->proto, g->transport_at, first->bytes))
            return false;
        g->verified = true;
    }
    return checksum_good(v->packet, v->version, v->proto, v->transport_at, v->total_bytes);
}

/* --- gathering --- */

static uint16_t new_piece(struct jv_coalesce *c, uint8_t *data, uint32_t bytes) {
    c->piece[c->pieces_used] = (struct jv_piece){.data = data, .bytes = (uint16_t)bytes, .next = NONE};
    return c->pieces_used++;
}

static uint16_t new_group(struct jv_coalesce *c, uint8_t *packet, uint32_t bytes) {
    const uint16_t piece = new_piece(c, packet, bytes);
    c->group[c->groups_used] =
        (struct jv_group){.first = piece, .last = piece, .merged = 1, .total_bytes = bytes};
    return c->groups_used++;
}

static uint16_t open_group(struct jv_coalesce *c, const struct view *v) {
    const uint16_t i = new_group(c, v->packet, v->total_bytes);
    struct jv_group *g = &c->group[i];
    g->version = v->version;
    g->proto = v->proto;
    g->transport_at = v->transport_at;
    g->header_bytes = v->header_bytes;
    g->payload_bytes = (uint16_t)v->payload_bytes;
    if (v->proto == IPPROTO_TCP)
        g->next_seq = jv_get_be32(v->packet + v->transport_at + 4) + v->payload_bytes;
    return v->plain && !v->ends && c->features & feature_of(v->version, v->proto) ? i : NONE;
}

/* Whether more may follow. */
static bool append(struct jv_coalesce *c, struct jv_group *g, const struct view *v) {
    const uint16_t piece = new_piece(c, v->packet + v->header_bytes, v->payload_bytes);
    c->piece[g->last].next = piece;
    g->last = piece;
    g->merged++;
    g->total_bytes += v->payload_bytes;
    g->next_seq += v->payload_bytes;
    if (v->proto == IPPROTO_TCP)
        g->late_flags = v->packet[v->transport_at + 13] & (TCP_PSH | TCP_FIN);
    return !v->ends && v->payload_bytes == g->payload_bytes;
}

void jv_coalesce_add(struct jv_coalesce *c, uint8_t *packet, const struct jv_ip *ip) {
    struct view v;
    if (!look(&v, packet, ip)) {
        memset(c->open, 0xff, sizeof c->open); /* it may belong to any flow, and nothing may overtake it */
        new_group(c, packet, ip->total_bytes);
        return;
    }
    uint16_t *open = &c->open[slot_of(&v)];
    if (*open == NONE || !may_follow(c, &c->group[*open], &v))
        *open = open_group(c, &v);
    else if (!append(c, &c->group[*open], &v))
        *open = NONE;
}

/* --- handing out --- */

static void write_lengths(const struct jv_group *g, uint8_t *p) {
    uint8_t *transport = p + g->transport_at;
    if (g->proto == IPPROTO_TCP)
        transport[13] |= g->late_flags;
    else
        jv_put_be16(transport + 4, (uint16_t)(g->total_bytes - g->transport_at));
    if (g->version == 6) {
        jv_put_be16(p + 4, (uint16_t)(g->total_bytes - IP6_HEADER));
        return;
    }
    jv_put_be16(p + 2, (uint16_t)g->total_bytes);
    memset(p + 10, 0, 2);
    const uint16_t checksum = jv_checksum_fold(jv_checksum_add(0, p, IP4_HEADER));
    memcpy(p + 10, &checksum, sizeof checksum);
}

/* Whoever takes it apart again adds the sum of each segment to that of the pseudo-header. */
static void write_partial_checksum(const struct jv_group *g, uint8_t *p, uint32_t field) {
    const uint32_t sum = pseudo_sum(p, g->version, g->proto, g->transport_at, g->total_bytes);
    const uint16_t partial = (uint16_t)~jv_checksum_fold(sum);
    memcpy(p + g->transport_at + field, &partial, sizeof partial);
}

static struct jv_vnet describe(const struct jv_group *g) {
    const bool tcp = g->proto == IPPROTO_TCP;
    const unsigned tso = g->version == 4 ? JV_VNET_GSO_TCPV4 : JV_VNET_GSO_TCPV6;
    return (struct jv_vnet){
        .flags = JV_VNET_NEEDS_CSUM,
        .gso_type = (uint8_t)(tcp ? tso : JV_VNET_GSO_UDP_L4),
        .hdr_len = g->header_bytes,
        .gso_size = g->payload_bytes,
        .csum_start = g->transport_at,
        .csum_offset = tcp ? TCP_CHECKSUM : UDP_CHECKSUM,
    };
}

int jv_coalesce_take(struct jv_coalesce *c, unsigned i, struct jv_vnet *vnet, struct iovec *iov) {
    const struct jv_group *g = &c->group[i];
    int n = 0;
    for (uint16_t at = g->first; at != NONE; at = c->piece[at].next)
        iov[n++] = (struct iovec){.iov_base = c->piece[at].data, .iov_len = c->piece[at].bytes};
    *vnet = (struct jv_vnet){.gso_type = JV_VNET_GSO_NONE};
    if (g->merged == 1)
        return n;
    *vnet = describe(g);
    write_lengths(g, iov[0].iov_base);
    write_partial_checksum(g, iov[0].iov_base, vnet->csum_offset);
    return n;
}
