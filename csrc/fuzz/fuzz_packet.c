/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever the bytes are, an accepted packet lies inside the buffer, its pointers too, and an ICMP
 * answer is a well-formed packet back to its source that is itself never answered. */
#include "jv/packet.h"

#include "fuzz.h"

static void check_parsed(const uint8_t *data, size_t size, const struct jv_ip *ip) {
    size_t address_bytes = ip->version == 4 ? 4 : 16;

    MUST(ip->version == data[0] >> 4);
    MUST(ip->header_bytes >= 20 && ip->header_bytes <= ip->total_bytes && ip->total_bytes <= size);
    MUST(ip->src >= data && ip->src + address_bytes == ip->dst);
    MUST(ip->dst + address_bytes <= data + size);
    MUST(ip->fragment || ip->first_fragment);
}

static void check_reply(const uint8_t *reply, size_t bytes, const struct jv_ip *asked,
                        enum jv_icmp_kind kind) {
    uint8_t again[JV_ICMP_BYTES_MAX];
    struct jv_ip ip;

    MUST(bytes <= JV_ICMP_BYTES_MAX);
    MUST(jv_ip_parse(reply, bytes, &ip) == 0);
    MUST(ip.total_bytes == bytes && ip.version == asked->version);
    MUST(memcmp(ip.dst, asked->src, ip.version == 4 ? 4 : 16) == 0);
    MUST(jv_icmp_reply(kind, reply, bytes, 1280, again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct jv_ip ip;
    int rc = jv_ip_parse(data, size, &ip);

    MUST(rc == JV_IP_OK || rc == JV_IP_SHORT || rc == JV_IP_VERSION || rc == JV_IP_LENGTH);
    if (rc == JV_IP_OK)
        check_parsed(data, size, &ip);
    for (int kind = JV_ICMP_TOO_BIG; kind <= JV_ICMP_ADMIN; kind++) {
        uint8_t reply[JV_ICMP_BYTES_MAX];
        size_t bytes = jv_icmp_reply((enum jv_icmp_kind)kind, data, size, 1280, reply);

        MUST(bytes == 0 || rc == JV_IP_OK);
        if (bytes)
            check_reply(reply, bytes, &ip, (enum jv_icmp_kind)kind);
    }
    return 0;
}
