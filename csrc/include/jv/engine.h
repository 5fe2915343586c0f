/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: sockets, one TUN device, sessions and routes, and the two pumps that move packets between them.
 *
 * Rule 1: a pump is bounded per call, allocates nothing and never blocks.
 * Rule 2: only what Python must see leaves through rings: unauthenticated handshake messages through some
 * (gate.h), facts about authenticated sessions through others, so a flood of the first cannot displace the
 * second.
 * Rule 3: time comes in as an argument, nanoseconds of CLOCK_BOOTTIME.
 * Rule 4: peek and consume belong to one thread; everything else here may be called from any.
 *
 * One packet outwards: tun_read -> tx.c (route, key, seal, train) -> burst send.
 * One packet inwards:  burst recv -> rx.c (index, open, replay, source) -> tun sink.
 */
#ifndef JV_ENGINE_H
#define JV_ENGINE_H

#include "jv/common.h"
#include "jv/counters.h"
#include "jv/endpoint.h"
#include "jv/index.h"
#include "jv/route.h"
#include "jv/session.h"
#include "jv/vnet.h"

struct jv_engine;

#define JV_WORKERS_MAX 16u

/* Durations and counts after which a keypair is renewed or refused. Defaults: noise/timers.py. */
struct jv_limits {
    uint64_t rekey_after_ns;
    uint64_t reject_after_ns;
    uint64_t keepalive_ns;
    uint64_t rekey_timeout_ns;
    uint64_t rekey_after_messages;
    uint64_t reject_after_messages;
};

struct jv_engine_config {
    uint32_t sessions;    /* most sessions at once, at most 2^20 */
    uint32_t prefixes;    /* most allowed prefixes at once */
    uint32_t window_bits; /* replay window of data, a power of two */
    uint8_t index_seed[JV_INDEX_SEED_BYTES];
    struct jv_limits limits;
    bool client;          /* which way jump frames travel; a client answers configured endpoints only */
    unsigned udp_without; /* JV_UDP_* to do without though the kernel has them */
    unsigned workers;     /* native threads (jv/worker.h), at most JV_WORKERS_MAX; 0 = the caller pumps */
};

enum jv_event_kind {
    /* A well-sized message of type 1..3, not authenticated: from, data, value = when it came. */
    JV_EVENT_HANDSHAKE = 1,
    JV_EVENT_WANTED = 2, /* session needs a handshake: reason */
    /* An authenticated packet came from an address that is no path (a stock peer's endpoint): from, bytes,
     * path_id it claims, flags JV_NOTICE_*, value = 1 if it is the newest. */
    JV_EVENT_NOTICE = 3,
    JV_EVENT_CONFIRMED = 4, /* the responder's keypair carried its first packet: from, value = local index */
    JV_EVENT_ERASED = 5,    /* the keys aged out and were wiped */
    /* Jump frames that Python reads: data, from, local_index, reason = 4 or 5 (the message type they came
     * in), path_id it claims, value = the path whose address it came from or 0. Walked, not yet read. */
    JV_EVENT_CONTROL = 6,
    /* Of one path (path_id), as gateway/core/inputs.py names them: */
    JV_EVENT_SUSPECTED = 7,
    JV_EVENT_MISSED = 8,        /* reason = misses in a row, value = ns since the last answer */
    JV_EVENT_ANSWERED = 9,      /* reason = answers in a row */
    JV_EVENT_MEASURED = 10,     /* data = struct jv_measured */
    JV_EVENT_PEER_BINDING = 11, /* path_id and value = epoch: what the other end says is bound */
    JV_EVENT_PMTU = 12, /* value = inner bytes it carries, reason = 1 if that is less than the tunnel's MTU */
    /* Of one socket: value = its id, reason = errno of this host's own kernel; at most ten a second each. No
     * session: slot = JV_SESSION_NONE. */
    JV_EVENT_SOCKET_ERROR = 13,
    /* A native worker has lost a descriptor for good: value = its number, reason = errno. No session. */
    JV_EVENT_WORKER_FAILED = 14,
};

#define JV_NOTICE_NEWEST 1u /* the highest counter so far */
#define JV_NOTICE_COPY   2u /* a control message that the replay window dropped, within 1 s of the first */

enum jv_wanted_reason {
    JV_WANTED_NO_KEY = 1, /* a packet waits for a key */
    JV_WANTED_REKEY = 2,  /* the current key is old or has sealed enough */
    JV_WANTED_SILENT = 3, /* data went out, nothing came back in time */
};

struct jv_event {
    uint16_t kind;
    uint16_t reason;
    uint16_t len; /* of data */
    uint8_t path_id;
    uint8_t flags;
    uint32_t slot;
    uint32_t bytes; /* size of the datagram that caused it */
    uint64_t value;
    uint32_t local_index; /* of the keypair it came under */
    uint32_t order;       /* of facts and messages, as they came */
    struct jv_endpoint from;
    uint8_t data[];
};

struct jv_session_stats {
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
    uint64_t latest_handshake_ns; /* 0 = never */
    uint64_t key_birth_ns;        /* of the current keypair, 0 = none */
    bool has_current, has_next, has_previous, has_older;
    uint16_t staged;
    uint8_t suite;           /* enum jv_suite: what data is sealed under, 0 = no keypair */
    uint32_t window_packets; /* how far back the current keypair's replay window reaches, 0 = none */
};

/* Life. NULL and errno when memory or a limit does not allow it. */
JV_API struct jv_engine *jv_engine_new(const struct jv_engine_config *config, uint64_t now_ns) JV_WARN_UNUSED;
JV_API void jv_engine_free(struct jv_engine *e);

/* Sockets and device. The caller keeps the descriptors open until they are removed. Returns the socket's id.
 */
JV_API int jv_engine_add_socket(struct jv_engine *e, int fd) JV_WARN_UNUSED;
/* With native workers: one descriptor for each, all bound to the same address (SO_REUSEPORT). */
JV_API int jv_engine_add_sockets(struct jv_engine *e, const int *fds) JV_WARN_UNUSED;
/* Paths through it are dropped before: its id is given out again. No worker has its descriptors any more. */
JV_API int jv_engine_remove_socket(struct jv_engine *e, int socket_id);
/* The first socket of a family (AF_INET, AF_INET6), for an endpoint that came from a configuration. */
JV_API int jv_engine_socket_for(struct jv_engine *e, int family) JV_WARN_UNUSED;
/* JV_UDP_* that every socket has; 0 without a socket. */
JV_API unsigned jv_engine_udp_features(struct jv_engine *e);
/* features: JV_TUN_* of the open device. */
JV_API int jv_engine_set_tun(struct jv_engine *e, int fd, uint32_t mtu_bytes,
                             unsigned features) JV_WARN_UNUSED;
/* With native workers: one queue of it for each, before they start. */
JV_API int jv_engine_set_queues(struct jv_engine *e, const int *fds, uint32_t mtu_bytes,
                                unsigned features) JV_WARN_UNUSED;

/* Sessions. All return 0 or a negative errno (ENOENT: no such slot; ENOSPC: the table is full). */
JV_API int jv_engine_add_session(struct jv_engine *e, uint32_t *slot) JV_WARN_UNUSED;
JV_API int jv_engine_remove_session(struct jv_engine *e, uint32_t slot);
JV_API int jv_engine_new_index(struct jv_engine *e, uint32_t slot, uint32_t *index) JV_WARN_UNUSED;
/* slots[i] = the session that indices[i] names, or JV_SESSION_NONE; returns how many name one. */
JV_API size_t jv_engine_slots_of(struct jv_engine *e, const uint32_t *indices, size_t n, uint32_t *slots);
JV_API int jv_engine_install(struct jv_engine *e, uint32_t slot, const struct jv_keys *keys,
                             uint64_t now_ns) JV_WARN_UNUSED;
/* The session is over: its keys are wiped but for one keypair, which carries the next session and seals from
 * now on if its first message has come (0 = none); its paths are gone. */
JV_API int jv_engine_erase_keys(struct jv_engine *e, uint32_t slot, uint32_t keep_index);
/* Where data goes from now on; packets that waited for an address leave at once. */
JV_API int jv_engine_set_endpoint(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to,
                                  uint64_t now_ns);
JV_API int jv_engine_get_endpoint(struct jv_engine *e, uint32_t slot, struct jv_endpoint *to) JV_WARN_UNUSED;
JV_API int jv_engine_set_keepalive(struct jv_engine *e, uint32_t slot, uint16_t seconds, uint64_t now_ns);
JV_API int jv_engine_gave_up(struct jv_engine *e, uint32_t slot);
JV_API int jv_engine_stats(struct jv_engine *e, uint32_t slot, struct jv_session_stats *out) JV_WARN_UNUSED;

/* Routes: allowed prefixes of family 4 or 6 to a session. An equal prefix moves to its new owner. */
JV_API int jv_engine_add_route(struct jv_engine *e, const struct jv_prefix *prefix,
                               uint32_t slot) JV_WARN_UNUSED;
JV_API int jv_engine_remove_route(struct jv_engine *e, const struct jv_prefix *prefix, uint32_t slot);

/* Pumps. Return how many datagrams or packets were taken, or a negative errno of the descriptor. */
JV_API int jv_engine_pump_udp(struct jv_engine *e, int socket_id, uint64_t now_ns) JV_WARN_UNUSED;
JV_API int jv_engine_pump_tun(struct jv_engine *e, uint64_t now_ns) JV_WARN_UNUSED;
/* Runs what is due, at most a bounded number of sessions per call. */
JV_API void jv_engine_tick(struct jv_engine *e, uint64_t now_ns);
/* When tick has something to do next, UINT64_MAX = never. */
JV_API uint64_t jv_engine_next_deadline(struct jv_engine *e);

/* Sends one datagram that is not a transport message (handshakes, cookies). 0 or a negative errno. */
JV_API int jv_engine_send(struct jv_engine *e, const struct jv_endpoint *to, const uint8_t *data, size_t len);

/* The oldest event, authenticated ones first; valid until consumed. NULL when there is none. */
JV_API const struct jv_event *jv_engine_peek(struct jv_engine *e);
JV_API void jv_engine_consume(struct jv_engine *e);
/* Unauthenticated handshake messages that wait to be read. */
JV_API uint32_t jv_engine_handshakes_waiting(struct jv_engine *e);
/* A copy, until the next call. */
JV_API const struct jv_counters *jv_engine_counters(struct jv_engine *e);

#endif
