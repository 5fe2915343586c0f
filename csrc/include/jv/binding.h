/* SPDX-License-Identifier: Apache-2.0
 *
 * What Python decides about a session's transports, and how it sends jump frames (protocol.md §2-4).
 *
 * Rule 1: data goes to the bound path and nowhere else; without a binding it waits. The exceptions are
 * bounded here: a duplicate for at most 2 s in any 10 s, a copy within three times what came from there.
 * Rule 2: every probe, miss and measurement of a path is made in C; policy is not.
 *
 * Functions return 0 or a negative errno. ENOENT: no such session or path. ENOMEM. Path ids are 1..255.
 */
#ifndef JV_BINDING_H
#define JV_BINDING_H

#include "jv/engine.h"
#include "jv/path.h"

/* The session speaks jump frames: from now on it has paths. Does no harm a second time. */
JV_API int jv_engine_open_paths(struct jv_engine *e, uint32_t slot, uint64_t now_ns);
/* HELLO and WELCOME have passed under a keypair that was installed with `hold`: the responder's becomes
 * current, the initiator's carries control messages. */
JV_API int jv_engine_promote(struct jv_engine *e, uint32_t slot, uint32_t local_index, uint64_t now_ns);
/* Whether inner packets wait (outwards) and are dropped (inwards): a peer that must speak jump frames and has
 * not shown it yet. Handshakes, keepalives and jump frames pass all the while. */
JV_API int jv_engine_mute(struct jv_engine *e, uint32_t slot, bool mute, uint64_t now_ns);

/* Type 5 data under a keypair: 0 = our HELLO has left, any offered suite is taken; else the suite that HELLO
 * and WELCOME agreed on, for both directions (1 = type 4 only). ENOENT: no such keypair, or never offered. */
JV_API int jv_engine_choose_suite(struct jv_engine *e, uint32_t slot, uint32_t local_index, unsigned suite);

/* A validated path (client: one of its sockets) is at this address. An id that is there moves, with what was
 * measured on it; a new one is probed at once. Another path at the same address is dropped. ENOSPC beyond
 * JV_PATHS_MAX. */
JV_API int jv_engine_set_path(struct jv_engine *e, uint32_t slot, uint8_t path_id,
                              const struct jv_endpoint *at, uint64_t now_ns);
/* A bound path that is dropped leaves the session without a binding. */
JV_API int jv_engine_drop_path(struct jv_engine *e, uint32_t slot, uint8_t path_id);
/* Data goes there from now on, probes say so; waiting packets leave at once. */
JV_API int jv_engine_bind(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t epoch,
                          uint64_t now_ns);
/* Nothing is bound, and the other end has been asked to bind this path: data goes there meanwhile, for it is
 * delivered by key (session.md §7). Probes go on saying that nothing is bound; bind and clear_binding end it.
 * EBUSY: a path is bound. */
JV_API int jv_engine_lend(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns);
/* Nothing is bound: control messages only, inner packets wait in the stage. */
JV_API int jv_engine_clear_binding(struct jv_engine *e, uint32_t slot, uint64_t epoch);

/* interval_ns: the profile's, 0 = no probes. idle_ns: what is announced for sessions without inner traffic,
 * 0 = max(interval, idle paths / probe budget). */
JV_API int jv_engine_set_liveness(struct jv_engine *e, uint32_t slot, uint64_t interval_ns, uint64_t idle_ns,
                                  uint64_t now_ns);
JV_API int jv_engine_set_thresholds(struct jv_engine *e, uint32_t slot, const struct jv_thresholds *limits);
/* Probe this path at this interval, 0 = the profile's; report: Python hears of every answer. Only an interval
 * shorter than the profile's is kept while the session is idle. */
JV_API int jv_engine_probe_path(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t interval_ns,
                                bool report, uint64_t now_ns);
JV_API void jv_engine_set_probe_budget(struct jv_engine *e, uint32_t per_s);
/* What idle paths are probed at now by our own budget; at most 25 s, 0 = the profile's. */
JV_API uint64_t jv_engine_idle_interval(struct jv_engine *e);
JV_API uint32_t jv_engine_idle_paths(struct jv_engine *e);

/* Data of one of the two paths, whichever is bound, goes out on the other too. EAGAIN within 10 s of the last
 * beginning; until_ns is cut to 2 s from now. until_ns <= now_ns ends it, whatever the paths. */
JV_API int jv_engine_duplicate(struct jv_engine *e, uint32_t slot, uint8_t path_a, uint8_t path_b,
                               uint64_t until_ns, uint64_t now_ns);
/* Data is copied to this address, within three times what came from it. credit_bytes: what came before the
 * engine kept count (stock sessions), else 0. EBUSY: no slot is free. */
JV_API int jv_engine_copy_to(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to,
                             uint64_t until_ns, uint64_t credit_bytes, uint64_t now_ns);
JV_API int jv_engine_stop_copy(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to);

/* One message of jump frames. */
struct jv_outgoing {
    uint32_t slot;
    uint32_t local_index;         /* of the keypair, 0 = the current one */
    const struct jv_endpoint *to; /* NULL = the path's */
    const uint8_t *plain;         /* mark, frames, padding; at most 1200 bytes */
    size_t len;
    uint8_t path_id; /* where it goes if `to` is NULL (0 = where data goes), and what its header says */
    bool as_data;    /* type 4: HELLO, WELCOME, REFUSE */
};

/* EINVAL: not jump frames, or too long. ENOKEY: no usable keypair, or one without control keys. EDESTADDRREQ:
 * no address. EACCES: an address that is neither a path, nor a path's previous one, nor has sent us anything.
 * EDQUOT: more than three times what came from there. EAGAIN: the socket did not take it. */
JV_API int jv_engine_send_control(struct jv_engine *e, const struct jv_outgoing *m,
                                  uint64_t now_ns) JV_WARN_UNUSED;

struct jv_path_stats {
    struct jv_measured measured;
    uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
    uint64_t heard_ns;    /* anything new and authenticated */
    uint64_t answered_ns; /* an answer to our own probe */
    uint64_t pto_ns;
    uint64_t interval_ns; /* of its probes now, 0 = none */
    uint16_t mtu_bytes;
    uint8_t misses, streak;
    bool suspect, bound;
};

JV_API int jv_engine_path_stats(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns,
                                struct jv_path_stats *out) JV_WARN_UNUSED;

#endif
