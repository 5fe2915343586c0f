/* SPDX-License-Identifier: Apache-2.0 */
/* A super-packet of the TUN device, taken apart in place: the header of each segment is written into the
 * bytes before its payload, which belong to the segment before it. So a segment is used up (sealed elsewhere,
 * or copied) before the next one is asked for, and no payload is ever moved.
 *
 * What the device says is checked against the packet before anything is written; an impossible header refuses
 * the packet whole. */
#ifndef JV_SPLIT_H
#define JV_SPLIT_H

#include "jv/packet.h"
#include "jv/vnet.h"

/* IPv4 and TCP with all their options are 120 bytes, IPv6 with options and TCP may be more. */
#define JV_SPLIT_HEADER_MAX 256u
/* 64 KB at the least MSS that Linux takes (48, less 12 of timestamps) are 1,820. */
#define JV_SPLIT_SEGMENTS_MAX 2048u

struct jv_split {
    uint8_t *packet;
    uint32_t total_bytes;
    uint32_t segment_bytes; /* payload of every segment but the last; 0: one packet that stays as it is */
    uint32_t done_bytes;    /* payload handed out */
    uint32_t segments;
    uint32_t number; /* handed out */
    uint32_t pseudo; /* sum over addresses and protocol */
    uint16_t header_bytes;
    uint16_t transport_at;
    uint8_t version;
    uint8_t proto;
    uint8_t header[JV_SPLIT_HEADER_MAX]; /* as it was read */
};

/* packet: what jv_ip_parse found `ip` in, writable. A checksum left to us is completed here when there is
 * nothing to split. 0, or -1 when vnet and packet do not fit together. */
JV_API int jv_split_begin(struct jv_split *s, const struct jv_vnet *vnet, uint8_t *packet,
                          const struct jv_ip *ip) JV_NONNULL JV_WARN_UNUSED;
/* The next segment, a whole IP packet inside the one given to begin; NULL after the last. */
JV_API uint8_t *jv_split_next(struct jv_split *s, uint32_t *bytes) JV_NONNULL JV_WARN_UNUSED;

/* The largest segment: all but the last have this size. */
static inline uint32_t jv_split_largest(const struct jv_split *s) {
    const uint32_t full = s->header_bytes + s->segment_bytes;
    return s->segment_bytes && full < s->total_bytes ? full : s->total_bytes;
}

static inline uint32_t jv_split_last(const struct jv_split *s) {
    return s->total_bytes - (s->segments - 1) * s->segment_bytes;
}

/* All segments together, as they leave. */
static inline uint64_t jv_split_bytes(const struct jv_split *s) {
    return s->total_bytes + (uint64_t)(s->segments - 1) * s->header_bytes;
}

#endif
