/* SPDX-License-Identifier: Apache-2.0 */
/* Segments differ from the super-packet in lengths, IPv4 identification, TCP sequence number and flags, and
 * checksums; all else is copied. Checksums are made anew over the whole segment, because they travel. */
#include "jv/split.h"

#include <netinet/in.h>

enum {
    TCP_HEADER = 20,
    TCP_CHECKSUM = 16,
    UDP_HEADER = 8,
    UDP_CHECKSUM = 6,
    EXTENSIONS_MAX = 8, /* as in packet.c */
};

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_CWR 0x80u

static uint32_t at_most(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static void put_checksum(uint8_t *field, uint32_t sum) {
    const uint16_t folded = jv_checksum_fold(sum);
    memcpy(field, &folded, sizeof folded);
}

/* Zero means "no checksum" in UDP and is worth the same as 0xffff (RFC 768). */
static void put_checksum_or_ones(uint8_t *field, uint32_t sum) {
    const uint16_t folded = jv_checksum_fold(sum), ones = 0xffff;
    memcpy(field, folded ? &folded : &ones, sizeof folded);
}

/* The field holds the sum of what is not in the packet, so the sum over all of it is the checksum. Which
 * protocol it is of is not known here; 0xffff for zero is right in all of them. */
static int complete_checksum(uint8_t *packet, uint32_t bytes, const struct jv_vnet *vnet) {
    const uint32_t start = vnet->csum_start, field = start + vnet->csum_offset;
    if (field + 2 > bytes)
        return -1;
    put_checksum_or_ones(packet + field, jv_checksum_add(0, packet + start, bytes - start));
    return 0;
}

/* Where the header of `proto` lies, 0 = nowhere that segmentation could find it. An IPv6 routing header or a
 * fragment changes what the checksum covers, so only options may stand before it. */
static uint32_t find_transport(const uint8_t *packet, const struct jv_ip *ip, uint8_t proto) {
    uint32_t at = ip->header_bytes;
    uint8_t header = ip->proto;
    if (ip->version == 4)
        return header == proto && !ip->fragment ? at : 0;
    for (int i = 0; i < EXTENSIONS_MAX && header != proto; i++) {
        if ((header != IPPROTO_HOPOPTS && header != IPPROTO_DSTOPTS) || at + 8 > ip->total_bytes)
            return 0;
        header = packet[at];
        at += 8 + packet[at + 1] * 8u;
    }
    return header == proto && at < ip->total_bytes ? at : 0;
}

static uint8_t gso_proto(const struct jv_vnet *vnet, const struct jv_ip *ip) {
    const unsigned type = vnet->gso_type & ~JV_VNET_GSO_ECN;
    if (type == (ip->version == 4 ? JV_VNET_GSO_TCPV4 : JV_VNET_GSO_TCPV6))
        return IPPROTO_TCP;
    return vnet->gso_type == JV_VNET_GSO_UDP_L4 ? IPPROTO_UDP : 0;
}

/* Length of the transport header, 0 if it does not fit into the packet. */
static uint32_t transport_bytes(const uint8_t *packet, const struct jv_ip *ip, uint32_t at, uint8_t proto) {
    const uint32_t least = proto == IPPROTO_TCP ? TCP_HEADER : UDP_HEADER;
    if (at + least > ip->total_bytes)
        return 0;
    const uint32_t bytes = proto == IPPROTO_TCP ? (packet[at + 12] >> 4) * 4u : UDP_HEADER;
    return bytes >= least && at + bytes <= ip->total_bytes ? bytes : 0;
}

/* The device's words against the packet's; fills in everything that needs them. */
static int begin_segments(struct jv_split *s, const struct jv_vnet *vnet, const struct jv_ip *ip) {
    const uint8_t proto = gso_proto(vnet, ip);
    const uint32_t at = proto ? find_transport(s->packet, ip, proto) : 0;
    const uint32_t bytes = at ? transport_bytes(s->packet, ip, at, proto) : 0;
    const uint32_t field = proto == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
    if (!bytes || at + bytes > JV_SPLIT_HEADER_MAX || !(vnet->flags & JV_VNET_NEEDS_CSUM) ||
        vnet->csum_start != at || vnet->csum_offset != field || vnet->gso_size == 0)
        return -1;
    const uint32_t payload = s->total_bytes - at - bytes;
    s->segment_bytes = vnet->gso_size;
    s->segments = payload ? (payload + s->segment_bytes - 1) / s->segment_bytes : 1;
    s->header_bytes = (uint16_t)(at + bytes);
    s->transport_at = (uint16_t)at;
    s->version = ip->version;
    s->proto = proto;
    s->pseudo = jv_checksum_pseudo(ip, proto, 0);
    memcpy(s->header, s->packet, s->header_bytes);
    return s->segments <= JV_SPLIT_SEGMENTS_MAX ? 0 : -1;
}

int jv_split_begin(struct jv_split *s, const struct jv_vnet *vnet, uint8_t *packet, const struct jv_ip *ip) {
    s->packet = packet;
    s->total_bytes = ip->total_bytes;
    s->header_bytes = 0;
    s->segment_bytes = s->done_bytes = s->number = 0;
    s->segments = 1;
    if (vnet->gso_type != JV_VNET_GSO_NONE)
        return begin_segments(s, vnet, ip);
    return vnet->flags & JV_VNET_NEEDS_CSUM ? complete_checksum(packet, s->total_bytes, vnet) : 0;
}

static void write_ip(const struct jv_split *s, uint8_t *p, uint32_t bytes) {
    if (s->version == 6) {
        jv_put_be16(p + 4, (uint16_t)(bytes - 40));
        return;
    }
    jv_put_be16(p + 2, (uint16_t)bytes);
    jv_put_be16(p + 4, (uint16_t)(jv_get_be16(s->header + 4) + s->number));
    memset(p + 10, 0, 2);
    put_checksum(p + 10, jv_checksum_add(0, p, (p[0] & 0x0f) * 4u));
}

/* FIN and PSH speak of the end of the data, CWR of its beginning. */
static void write_tcp(const struct jv_split *s, uint8_t *tcp) {
    unsigned flags = tcp[13];
    if (s->number + 1 < s->segments)
        flags &= ~(TCP_FIN | TCP_PSH);
    if (s->number > 0)
        flags &= ~TCP_CWR;
    tcp[13] = (uint8_t)flags;
    jv_put_be32(tcp + 4, jv_get_be32(s->header + s->transport_at + 4) + s->done_bytes);
}

static void write_transport(const struct jv_split *s, uint8_t *p, uint32_t bytes) {
    uint8_t *transport = p + s->transport_at, length[4];
    uint8_t *field = transport + (s->proto == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM);
    const uint32_t covered = bytes - s->transport_at;
    if (s->proto == IPPROTO_TCP)
        write_tcp(s, transport);
    else
        jv_put_be16(transport + 4, (uint16_t)covered);
    memset(field, 0, 2);
    jv_put_be32(length, covered);
    const uint32_t pseudo = jv_checksum_add(s->pseudo, length, sizeof length);
    const uint32_t sum = jv_checksum_add(pseudo, transport, covered);
    if (s->proto == IPPROTO_TCP)
        put_checksum(field, sum);
    else
        put_checksum_or_ones(field, sum);
}

uint8_t *jv_split_next(struct jv_split *s, uint32_t *bytes) {
    uint8_t *segment = s->packet + s->done_bytes; /* the header ends where its payload begins */
    if (s->number == s->segments)
        return NULL;
    *bytes = s->total_bytes;
    if (s->segment_bytes > 0) {
        const uint32_t left = s->total_bytes - s->header_bytes - s->done_bytes;
        const uint32_t payload = at_most(left, s->segment_bytes);
        *bytes = s->header_bytes + payload;
        memcpy(segment, s->header, s->header_bytes);
        write_ip(s, segment, *bytes);
        write_transport(s, segment, *bytes);
        s->done_bytes += payload;
    }
    s->number++;
    return segment;
}
