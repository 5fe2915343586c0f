/* SPDX-License-Identifier: Apache-2.0 */
/* The gate before the rings of unauthenticated handshake messages: what of a flood Python is shown at all.
 *
 * It cannot tell a forged message from a genuine one; mac1 and cookies are Python's, where BLAKE2s is. It
 * tells sources apart by what they have done before, gives each kind a rate of its own, and lets no kind
 * eat another's:
 *
 *   known      a handshake was begun with it or answered to it in the last minutes
 *   answering  it was here a few seconds ago and brings a mac2, as who was sent a cookie does
 *   returning  it was here a few seconds ago, as who got no answer does
 *   stranger   all others, and so whoever forges a fresh source for each message
 *
 * Rule: memory is fixed at the start, and what is remembered only chooses a rate. A wrong answer of the
 * filters, or a forged source, costs or gains a place in a queue; it never lets anything be believed. */
#ifndef JV_GATE_H
#define JV_GATE_H

#include "jv/common.h"
#include "jv/endpoint.h"

#define JV_GATE_KEY_BYTES 16

/* Messages a second of each kind. To refuse a message costs Python some 5 us, to answer it with a cookie 10:
 * all four together are a fifth of a core. */
#define JV_GATE_KNOWN_PER_S     4000u
#define JV_GATE_ANSWERING_PER_S 4000u
#define JV_GATE_RETURNING_PER_S 4000u
#define JV_GATE_STRANGER_PER_S  8000u
/* Of one source while messages wait (WireGuard's ratelimiter: 20/s). Rows are shared by whoever meets in
 * them: 16,384 of them bear 300,000 messages a second from everywhere before a newcomer finds his row full.
 */
#define JV_GATE_SOURCE_PER_S 20u

enum jv_gate_verdict {
    JV_GATE_PRIOR,       /* of the first three kinds */
    JV_GATE_STRANGER,    /* passes behind them */
    JV_GATE_OVER_RATE,   /* more of this kind than Python can check */
    JV_GATE_OVER_SOURCE, /* more from this source than its share, while others wait */
};

struct jv_gate;

/* key: random bytes of this process, so that nobody can aim at another's row. NULL when memory is short. */
JV_API struct jv_gate *jv_gate_new(const uint8_t key[JV_GATE_KEY_BYTES]) JV_WARN_UNUSED;
JV_API void jv_gate_free(struct jv_gate *g);

/* One message. has_mac2: it carries one, right or wrong. pressed: messages wait longer than they should. */
JV_API enum jv_gate_verdict jv_gate_judge(struct jv_gate *g, const struct jv_endpoint *from, bool has_mac2,
                                          bool pressed, uint64_t now_ns) JV_NONNULL JV_WARN_UNUSED;

/* A handshake message left for there: known from now on, for four to eight minutes. */
JV_API void jv_gate_expect(struct jv_gate *g, const struct jv_endpoint *to, uint64_t now_ns) JV_NONNULL;

/* Bytes of memory it has, whatever arrives. */
JV_API size_t jv_gate_bytes(const struct jv_gate *g) JV_NONNULL JV_PURE;

#endif
