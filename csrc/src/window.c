/* SPDX-License-Identifier: Apache-2.0 */
/* The replay window of data grows where one of the usual size may be too small (protocol.md §5): packets of
 * one counter space come by several paths, and at speed the slower path's are thousands of counters late.
 *
 * Looked at beside the probes, never on the packet path; memory is taken only here. */
#include "engine_internal.h"

#define FAST_PACKETS_PER_S 20000u
#define LOOK_EVERY_NS      (JV_NS_PER_S / 4)

/* Paths that something new and authenticated has come by. */
static unsigned heard_paths(const struct jv_paths *p, uint64_t since_ns) {
    unsigned n = 0;
    for (unsigned i = 0; i < p->capacity; i++)
        n += p->row[i].id && p->row[i].heard_ns >= since_ns;
    return n;
}

/* The keypairs in use for receiving. A new one starts small again. */
static void widen(struct jv_engine *e, const struct jv_session *s, uint64_t since_ns) {
    struct jv_keypair *const keypairs[] = {s->current, s->next, s->previous, s->older};
    for (size_t i = 0; i < JV_ARRAY_LEN(keypairs); i++)
        if (keypairs[i] && keypairs[i]->heard_ns >= since_ns && jv_keypair_widen(keypairs[i]))
            jv_count(&e->counters, JV_CTR_WINDOWS_GROWN);
}

void jv_window_look(struct jv_engine *e, const struct jv_session *s) {
    struct jv_paths *p = s->paths;
    const uint64_t since_ns = p->look_ns, for_ns = e->now_ns - since_ns;
    if (for_ns < LOOK_EVERY_NS)
        return;
    const uint64_t packets = s->rx_packets - p->look_packets;
    p->look_ns = e->now_ns;
    p->look_packets = s->rx_packets;
    if (since_ns && packets * JV_NS_PER_S > FAST_PACKETS_PER_S * for_ns && heard_paths(p, since_ns) > 1)
        widen(e, s, since_ns);
}
