/* SPDX-License-Identifier: Apache-2.0 */
/* Inspecting inner IP packets and answering them with ICMP. A length field is believed only after it was
 * checked against the buffer; no function reads beyond the length that the caller gave. */
#ifndef JV_PACKET_H
#define JV_PACKET_H

#include "jv/common.h"

enum jv_ip_fault {
    JV_IP_OK = 0,
    JV_IP_SHORT = -1,   /* less than a header */
    JV_IP_VERSION = -2, /* neither 4 nor 6 */
    JV_IP_LENGTH = -3,  /* header or total length impossible or beyond the buffer */
};

/* Pointers go into the parsed buffer. */
struct jv_ip {
    const uint8_t *src, *dst; /* 4 or 16 bytes, network order */
    uint16_t total_bytes;     /* the packet; what lies behind it is WireGuard's padding */
    uint16_t header_bytes;    /* IPv4: with options; IPv6: the 40 fixed bytes */
    uint8_t version;          /* 4 or 6 */
    uint8_t proto;            /* IPv4 protocol or first IPv6 next header */
    bool fragment;            /* IPv4 only: a piece of a datagram, first or later */
    bool first_fragment;      /* offset 0: the transport header is here */
};

/* 0 or the fault (negative). out is written only on 0. */
JV_API int jv_ip_parse(const uint8_t *p, size_t len, struct jv_ip *out) JV_NONNULL JV_WARN_UNUSED;

/* RFC 1071. sum: running 32-bit accumulator, 0 at first; jv_checksum_fold gives the 16-bit value as it lies
 * in the header (network order kept, so it is stored with memcpy). Pieces but the last are of even length. */
JV_API uint32_t jv_checksum_add(uint32_t sum, const void *data, size_t len) JV_NONNULL JV_PURE;
JV_API uint16_t jv_checksum_fold(uint32_t sum) __attribute__((const));
/* The pseudo-header of RFC 793 / RFC 8200 §8.1 for a transport segment of `bytes`. */
JV_API uint32_t jv_checksum_pseudo(const struct jv_ip *ip, uint8_t proto, uint32_t bytes) JV_NONNULL JV_PURE;

/* ICMPv4 answers quote up to 548 bytes (RFC 1812 §4.3.2.3: at most 576 in all), ICMPv6 up to 1280 in all. */
#define JV_ICMP_BYTES_MAX 1280

enum jv_icmp_kind {
    JV_ICMP_TOO_BIG,      /* ICMPv4 3/4 with the next-hop MTU (RFC 1191), ICMPv6 2/0 */
    JV_ICMP_NO_ROUTE,     /* ICMPv4 3/0 net unreachable, ICMPv6 1/0 no route */
    JV_ICMP_HOST_UNREACH, /* ICMPv4 3/1 host unreachable, ICMPv6 1/3 address unreachable */
    JV_ICMP_ADMIN,        /* ICMPv4 3/13 (RFC 1812), ICMPv6 1/1 administratively prohibited */
};

/* Builds the answer to the packet p[0..len) into out (JV_ICMP_BYTES_MAX). It comes in the name of the
 * packet's destination: a host refuses what arrives from its own address, and ours is one of its own. Returns
 * its length, or 0 where an answer is forbidden: the packet is malformed, an ICMP error itself, a later
 * fragment, to or from multicast, broadcast or unspecified addresses (RFC 1122 §3.2.2, RFC 4443 §2.4 e), or
 * IPv4 without DF for TOO_BIG. mtu counts for TOO_BIG only. Rate limits are the caller's. */
JV_API size_t jv_icmp_reply(enum jv_icmp_kind kind, const uint8_t *p, size_t len, uint32_t mtu,
                            uint8_t *out) JV_NONNULL JV_WARN_UNUSED;

#endif
