/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of one burst on their way into the TUN device. Consecutive TCP segments of a flow, and datagrams of
 * equal size, become one super-packet: the first packet with its header rewritten, then the payloads of the
 * others, each where it was received.
 *
 * Rule 1: what the kernel makes of a super-packet are the packets that came, in the order of their flow.
 * Rule 2: a super-packet leaves with its checksum declared good, so every packet in it was verified here.
 *
 * Bounded by one burst; nothing is kept beyond it. */
#ifndef JV_COALESCE_H
#define JV_COALESCE_H

#include "jv/packet.h"
#include "jv/vnet.h"

#include <sys/uio.h>

#define JV_COALESCE_PACKETS 512u /* 8 trains of 64 datagrams */
#define JV_COALESCE_FLOWS   64u  /* open at once; two that share a slot only merge less */
/* UDP_MAX_SEGMENTS of kernels before 6.9, and what the kernel's own GRO merges at most. */
#define JV_COALESCE_MERGED_MAX 64u
#define JV_COALESCE_IOV_MAX    (JV_COALESCE_MERGED_MAX + 1)

/* One packet of the burst. The first of a group stands for the group. */
struct jv_piece {
    uint8_t *data; /* the first: the whole packet; the others: the payload */
    uint16_t bytes;
    uint16_t next; /* of the same group, JV_COALESCE_NONE = the last */
};

struct jv_group {
    uint16_t first, last; /* pieces */
    uint16_t merged;      /* packets in it */
    uint16_t payload_bytes;
    uint16_t header_bytes;
    uint16_t transport_at;
    uint32_t total_bytes;
    uint32_t next_seq; /* TCP: of the segment that would follow */
    uint8_t version;
    uint8_t proto;
    uint8_t late_flags; /* PSH and FIN of the last segment */
    bool verified;
};

struct jv_coalesce {
    unsigned features; /* JV_TUN_*: what may be merged */
    uint16_t pieces_used;
    uint16_t groups_used;
    uint16_t open[JV_COALESCE_FLOWS]; /* group by hash of its flow */
    struct jv_piece piece[JV_COALESCE_PACKETS];
    struct jv_group group[JV_COALESCE_PACKETS];
};

/* Empties it; before anything else, and after each burst. */
JV_API void jv_coalesce_reset(struct jv_coalesce *c, unsigned features) JV_NONNULL;
static inline bool jv_coalesce_full(const struct jv_coalesce *c) {
    return c->pieces_used == JV_COALESCE_PACKETS;
}
/* packet: what jv_ip_parse found `ip` in; writable, and stays where it is until the reset. Not when full. */
JV_API void jv_coalesce_add(struct jv_coalesce *c, uint8_t *packet, const struct jv_ip *ip) JV_NONNULL;
/* Group i < groups_used for one writev behind the 10 bytes of vnet: fills in both, returns how many of iov
 * (JV_COALESCE_IOV_MAX). The first packet's header is rewritten, so once each. */
JV_API int jv_coalesce_take(struct jv_coalesce *c, unsigned i, struct jv_vnet *vnet,
                            struct iovec *iov) JV_NONNULL JV_WARN_UNUSED;

#endif
