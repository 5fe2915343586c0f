/* SPDX-License-Identifier: Apache-2.0 */
/* UDP in bursts. A datagram never travels alone in this interface: what is received and sent is a train, one
 * or more equal segments to one address in one buffer, the last of which may be shorter. Without UDP_GRO a
 * received train has one segment; without UDP_SEGMENT a train is sent piecewise. Callers see no difference.
 * No allocation after creation; no call blocks; each is bounded by its burst. */
#ifndef JV_BURST_H
#define JV_BURST_H

#include "jv/counters.h"
#include "jv/endpoint.h"

/* What a socket can do. */
#define JV_UDP_GSO 1u /* UDP_SEGMENT, Linux >= 4.18 */
#define JV_UDP_GRO 2u /* UDP_GRO, Linux >= 5.0 */

/* UDP_MAX_SEGMENTS of kernels before 6.9. */
#define JV_TRAIN_SEGMENTS_MAX 64
/* Below 65,507, the greatest IPv4 UDP payload, by room for options. */
#define JV_TRAIN_BYTES_MAX 65400
/* 0.3 ms of work, dataplane.md §2. */
#define JV_BURST_MSGS_GRO   8
#define JV_BURST_MSGS_PLAIN 64
/* Writable bytes before the data of every received message, for a TUN header. */
#define JV_BURST_HEADROOM 64

/* Asks for the receiver's address with each datagram (IP_PKTINFO, IPV6_RECVPKTINFO) and turns on UDP_GRO if
 * wanted and there. Returns what of `wanted` (JV_UDP_*) the socket has, or -errno. The socket is AF_INET, or
 * AF_INET6 with IPV6_V6ONLY: addresses are never mapped. */
JV_API int jv_udp_prepare(int fd, unsigned wanted) JV_WARN_UNUSED;

/* --- receiving --- */

struct jv_msg {
    uint8_t *data; /* the burst's memory, valid until the next recv; 64-byte aligned, writable */
    uint32_t len;
    uint16_t segment_bytes; /* never 0 unless len is 0; the last segment may be shorter */
    uint16_t segments;
    struct jv_endpoint from;
};

struct jv_burst;

/* features: of the sockets it will read. With JV_UDP_GRO messages of 64 KB, else of datagram_bytes (rounded
 * up to 64; 1 to 65,535). Memory is touched where messages come. NULL when memory is short or an argument is
 * wrong. */
JV_API struct jv_burst *jv_burst_new(unsigned features, uint32_t datagram_bytes) JV_WARN_UNUSED;
JV_API void jv_burst_free(struct jv_burst *b);

/* Without waiting: at most 64 messages, of which the last 8 may be trains. Returns how many lie in
 * jv_burst_msgs(b), 0 when none were waiting, or -errno. socket goes into each endpoint. Truncated datagrams
 * are counted and left out. */
JV_API int jv_burst_recv(struct jv_burst *b, int fd, uint16_t socket,
                         struct jv_counters *ctr) JV_NONNULL JV_WARN_UNUSED;
JV_API struct jv_msg *jv_burst_msgs(struct jv_burst *b) JV_NONNULL;
/* What ended the last call behind its messages, -errno or 0: the kernel tells it once. */
JV_API int jv_burst_error(const struct jv_burst *b) JV_NONNULL;
/* Whether the last 64 messages were single datagrams, each. */
JV_API bool jv_burst_single(const struct jv_burst *b) JV_NONNULL;

/* --- sending --- */

/* In: */
#define JV_TRAIN_NO_GSO 1u /* UDP_SEGMENT failed to this destination before */
/* Out: */
#define JV_TRAIN_GSO_FAILED  2u /* it failed now; set NO_GSO from now on */
#define JV_TRAIN_LOCAL_STALE 4u /* the local address is gone; forget it */

struct jv_train {
    const uint8_t *data;
    uint32_t len;           /* 1 to JV_TRAIN_BYTES_MAX, at most JV_TRAIN_SEGMENTS_MAX segments */
    uint16_t segment_bytes; /* 0 = len */
    uint16_t flags;         /* JV_TRAIN_* */
    int error;              /* out: the last error that jv_local_error knows, or as it was */
    const struct jv_endpoint *to;
};

/* Whether only this host's own kernel says so: nothing left the machine (session.md §6). What may have come
 * from the network is not among them. */
JV_API bool jv_local_error(int error) __attribute__((const));

struct jv_sender;

JV_API struct jv_sender *jv_sender_new(unsigned features) JV_WARN_UNUSED;
JV_API void jv_sender_free(struct jv_sender *s);

/* Sends trains[0..n) in order through fd, one sendmmsg for up to 64 messages. A full socket buffer drops the
 * rest and counts it; an error of one train drops that train only, after the remedies that the flags report.
 * Returns the number of datagrams that the kernel took. */
JV_API uint32_t jv_sender_send(struct jv_sender *s, int fd, struct jv_train *trains, size_t n,
                               struct jv_counters *ctr) __attribute__((nonnull(1, 5)));

#endif
