/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever the device says about whatever packet, what is accepted comes apart into well-formed
 * packets inside its buffer that hold its payload once, in order, under checksums that are right. */
#include "jv/split.h"

#include "../test/inner.h"
#include "fuzz.h"

/* Most inputs get a packet that could be meant, or no input would pass the first check. */
static void make_plausible(uint8_t *p, size_t n, struct jv_vnet *vnet, uint8_t how) {
    const bool six = how & 1, tcp = how & 2;
    const size_t ip = six ? 40 : 20;
    if (n < ip + 20)
        return;
    p[0] = six ? 0x60 : 0x45;
    jv_put_be16(p + (six ? 4 : 2), (uint16_t)(six ? n - 40 : n));
    p[six ? 6 : 9] = tcp ? INNER_TCP : INNER_UDP;
    if (!six)
        p[6] = p[7] = 0;
    p[ip + 12] = (uint8_t)(p[ip + 12] % 16 << 4);
    vnet->flags |= JV_VNET_NEEDS_CSUM;
    vnet->gso_type = !tcp ? JV_VNET_GSO_UDP_L4 : six ? JV_VNET_GSO_TCPV6 : JV_VNET_GSO_TCPV4;
    vnet->csum_start = (uint16_t)ip;
    vnet->csum_offset = tcp ? 16 : 6;
    if (how & 4)
        vnet->gso_size %= 64;
}

static void check_sums(const uint8_t *p, const struct jv_split *s, const struct jv_ip *ip) {
    const uint32_t at = s->transport_at, covered = ip->total_bytes - at;
    const struct inner like = {.version = ip->version, .proto = s->proto};
    if (ip->version == 4)
        MUST(inner_sum(0, p, ip->header_bytes) == 0xffff);
    MUST(inner_sum(inner_pseudo(&like, p, covered), p + at, covered) == 0xffff);
}

static void check_segments(struct jv_split *s, const uint8_t *packet, size_t n, const uint8_t *before) {
    uint32_t bytes, count = 0, payload_at = s->header_bytes;
    const uint8_t *segment;
    while ((segment = jv_split_next(s, &bytes)) != NULL) {
        struct jv_ip ip;
        MUST(segment >= packet && segment + bytes <= packet + n && ++count <= s->segments);
        MUST(bytes <= jv_split_largest(s));
        if (s->segment_bytes == 0)
            continue;
        MUST(jv_ip_parse(segment, bytes, &ip) == JV_IP_OK && ip.total_bytes == bytes);
        MUST(memcmp(segment + s->header_bytes, before + payload_at, bytes - s->header_bytes) == 0);
        payload_at += bytes - s->header_bytes;
        check_sums(segment, s, &ip);
    }
    MUST(count == s->segments && (s->segment_bytes == 0 || payload_at == s->total_bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape t = {data, size};
    const uint8_t how = take8(&t);
    struct jv_vnet vnet = {.flags = take8(&t), .gso_type = take8(&t), .hdr_len = (uint16_t)take(&t, 2)};
    struct jv_split s;
    struct jv_ip ip;
    vnet.gso_size = (uint16_t)take(&t, 2);
    vnet.csum_start = (uint16_t)take(&t, 2);
    vnet.csum_offset = (uint16_t)take(&t, 2);
    uint8_t *packet = inner_exact(t.at, t.left), *before;
    if (how & 0xf0)
        make_plausible(packet, t.left, &vnet, how);
    before = inner_exact(packet, t.left);
    if (jv_ip_parse(packet, t.left, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, packet, &ip) == 0)
        check_segments(&s, packet, t.left, before);
    else
        MUST(memcmp(packet, before, t.left) == 0);
    free(packet);
    free(before);
    return 0;
}
