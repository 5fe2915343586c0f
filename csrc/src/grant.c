/* SPDX-License-Identifier: Apache-2.0 */
/* Outwards, the half under the lock: whether packets may leave, with which key and counters, and to where.
 * The other half, tx.c, seals and sends with what it was granted and no look at the session.
 *
 * A counter is taken before its packet is sealed and never given back (I39). A packet without a usable key
 * waits in the stage and asks for a handshake once. */
#include "engine_internal.h"

#include <errno.h>

_Static_assert(JV_STAGE_PER_SESSION <= JV_TX_PACKETS, "all that waits for a session is one flush");

/* Data and control count together (protocol.md §3). */
static uint64_t sealed(const struct jv_keypair *kp) {
    return kp->send_counter + (kp->control ? kp->control->send_counter : 0);
}

static bool usable_for(const struct jv_engine *e, const struct jv_keypair *kp, uint32_t packets) {
    return kp && e->now_ns - kp->birth_ns < e->limits.reject_after_ns &&
           sealed(kp) + packets <= e->limits.reject_after_messages &&
           sealed(kp) + packets <= jv_suite_packets_max(kp);
}

bool jv_tx_usable(const struct jv_engine *e, const struct jv_keypair *kp) {
    return usable_for(e, kp, 1);
}

bool jv_grant_ready(const struct jv_engine *e, const struct jv_session *s, uint32_t packets) {
    return usable_for(e, s->current, packets) && s->endpoint.remote.family != AF_UNSPEC;
}

static bool rekey_on_send(const struct jv_engine *e, const struct jv_keypair *kp) {
    return sealed(kp) >= e->limits.rekey_after_messages || sealed(kp) >= jv_suite_packets_max(kp) / 2 ||
           (kp->initiator && e->now_ns - kp->birth_ns >= e->limits.rekey_after_ns);
}

void jv_tx_sealed(struct jv_engine *e, struct jv_session *s, const struct jv_keypair *kp, uint32_t packets,
                  uint64_t bytes, bool data) {
    s->tx_packets += packets;
    s->tx_bytes += bytes;
    jv_clock_sent(e, s, data);
    if (kp == s->current && rekey_on_send(e, kp))
        jv_engine_want(e, s, JV_WANTED_REKEY);
}

static uint32_t path_mtu(const struct jv_engine *e, const struct jv_session *s) {
    const struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    const uint32_t own = path ? path->mtu_bytes : 0;
    return own && own < e->mtu_bytes ? own : e->mtu_bytes;
}

static int descriptor(struct jv_engine *e, const struct jv_endpoint *to, unsigned worker) {
    const struct jv_socket *sock = jv_engine_socket(e, to->socket);
    return sock ? sock->fd[worker] : -1;
}

/* Of the datagrams: header, padded packet, tag. */
static uint64_t datagram_bytes(const struct jv_grant *g, struct jv_sizes n) {
    const uint64_t padded = (n.packets - 1) * (uint64_t)jv_tx_padded(g->mtu_bytes, n.each_bytes) +
                            jv_tx_padded(g->mtu_bytes, n.last_bytes);
    return padded + n.packets * (uint64_t)(JV_HEADER_BYTES + jv_aead_tag_bytes(g->key.key.suite));
}

/* What a second copy may carry must not name a path (extra.c). */
static void fill_path(const struct jv_engine *e, const struct jv_session *s, const struct jv_path *path,
                      struct jv_grant *g) {
    g->extra = s->paths && e->now_ns < s->paths->extra_until_ns;
    g->path_id = path && !g->extra ? path->id : 0;
}

void jv_grant_take(struct jv_engine *e, struct jv_session *s, struct jv_sizes n, unsigned worker,
                   struct jv_grant *g) {
    struct jv_keypair *kp = s->current;
    struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    jv_hot_take(&e->hot, kp->seals ? &jv_keypair_data(kp, kp->seals)->send : &kp->send, &g->key);
    g->counter = kp->send_counter;
    g->slot = s->slot;
    g->local_index = kp->local_index;
    g->remote_index = kp->remote_index;
    g->mtu_bytes = path_mtu(e, s);
    g->fd = descriptor(e, &s->endpoint, worker);
    g->suite = kp->seals;
    g->no_gso = s->no_gso;
    g->begun = false;
    g->to = s->endpoint;
    fill_path(e, s, path, g);
    kp->send_counter += n.packets;
    const uint64_t bytes = datagram_bytes(g, n);
    if (path)
        jv_paths_sent(e, s, path, n.packets, bytes, n.last_bytes > 0);
    jv_tx_sealed(e, s, kp, n.packets, bytes, n.last_bytes > 0);
}

/* --- a packet that was read
 * ------------------------------------------------------------------------------------- */

/* Something waits: for a handshake, or only for a greeting or for the core to bind a path. */
static void ask_for_key(struct jv_engine *e, struct jv_session *s) {
    if (s->mute && jv_tx_usable(e, s->current))
        return;
    if (!s->paths || s->paths->used == 0 || !jv_tx_usable(e, s->current))
        jv_engine_want(e, s, JV_WANTED_NO_KEY);
}

/* Tells the inner sender why not, as a router would; the answer goes back into the TUN and quotes the first
 * of what was to be sent. */
static void refuse(struct jv_engine *e, struct jv_worker *w, enum jv_icmp_kind kind, uint32_t mtu_bytes) {
    uint8_t space[JV_SINK_HEADROOM + JV_ICMP_BYTES_MAX], *reply = space + JV_SINK_HEADROOM;
    uint32_t bytes;
    if (e->now_ns - e->icmp_ns < JV_ICMP_INTERVAL_NS) {
        jv_count(&e->counters, JV_CTR_ICMP_LIMITED);
        return;
    }
    const uint8_t *packet = jv_split_next(&w->tx.split, &bytes);
    const size_t n = jv_icmp_reply(kind, packet, bytes, mtu_bytes, reply);
    if (n == 0)
        return;
    e->icmp_ns = e->now_ns;
    jv_count(&e->counters, JV_CTR_ICMP_SENT);
    jv_sink_write(w, reply, (uint32_t)n);
}

/* IPv4 without DF may be fragmented, and outside the tunnel it is (RFC 791 §2.3); IPv6 carries 1280 bytes
 * whatever the link below does (RFC 8200 §5). */
static bool fits(const struct jv_engine *e, const struct jv_session *s, const struct jv_worker *w,
                 const struct jv_ip *ip) {
    const uint32_t bytes = jv_split_largest(&w->tx.split);
    if (bytes <= path_mtu(e, s))
        return true;
    return ip->version == 4 ? !(w->tx.input[6] & 0x40) : bytes <= 1280;
}

static void stage_all(struct jv_engine *e, struct jv_worker *w, struct jv_session *s) {
    uint8_t *segment;
    uint32_t bytes;
    while ((segment = jv_split_next(&w->tx.split, &bytes)) != NULL)
        jv_stage_put(&e->stage, s, segment, bytes, &e->counters);
    ask_for_key(e, s);
}

bool jv_grant_packet(struct jv_engine *e, struct jv_worker *w, const struct jv_ip *ip) {
    const struct jv_split *split = &w->tx.split;
    struct jv_session *s = jv_table_get(e->table, jv_engine_route(e, ip->version, ip->dst));
    if (!s) {
        jv_count_add(&e->counters, JV_CTR_DROP_NO_ROUTE, split->segments);
        refuse(e, w, JV_ICMP_HOST_UNREACH, 0);
        return false;
    }
    if (s->paths)
        jv_paths_active(e, s);
    if (!fits(e, s, w, ip)) {
        jv_count_add(&e->counters, JV_CTR_DROP_MTU, split->segments);
        refuse(e, w, JV_ICMP_TOO_BIG, path_mtu(e, s));
        return false;
    }
    if (s->mute || !jv_grant_ready(e, s, split->segments)) {
        stage_all(e, w, s);
        return false;
    }
    const struct jv_sizes n = {split->segments, jv_split_largest(split), jv_split_last(split)};
    jv_grant_take(e, s, n, w->number, &w->tx.grant);
    return true;
}

/* --- what is sent under the lock: keepalives, and what waited
 * ------------------------------------------------------ */

static void send_now(struct jv_engine *e, struct jv_session *s, uint32_t len) {
    struct jv_tx *tx = &e->own.tx;
    jv_grant_take(e, s, (struct jv_sizes){1, len, len}, e->own.number, &tx->grant);
    jv_tx_seal(&e->own, tx->input, len);
}

static void finish(struct jv_engine *e) {
    jv_tx_send(&e->own);
    jv_tx_settle(e, &e->own);
    jv_hot_wipe(&e->own.tx.grant.key);
}

void jv_tx_keepalive(struct jv_engine *e, struct jv_session *s) {
    if (!e->own.tx.arena)
        return;
    if (!jv_grant_ready(e, s, 1)) {
        ask_for_key(e, s);
        return;
    }
    send_now(e, s, 0);
    finish(e);
}

void jv_tx_staged(struct jv_engine *e, struct jv_session *s) {
    if (s->stage_count == 0)
        return;
    while (s->stage_count > 0 && !s->mute && jv_grant_ready(e, s, 1))
        send_now(e, s, jv_stage_take(&e->stage, s, e->own.tx.input));
    finish(e);
}

/* --- afterwards
 * ------------------------------------------------------------------------------------------------- */

/* The kernel chooses the source address from now on, unless the address is another one by now. */
static void forget_local(struct jv_endpoint *now, const struct jv_endpoint *used) {
    if (!jv_endpoint_same_path(now, used))
        return;
    memset(&now->local, 0, sizeof now->local);
    now->local_ifindex = 0;
}

static void settle(struct jv_engine *e, const struct jv_sent *sent, const struct jv_train *train) {
    struct jv_session *s = jv_table_get(e->table, sent->slot);
    if (jv_unlikely(train->error))
        jv_engine_socket_failed(e, train->to->socket, train->error);
    if (!s || !jv_session_keypair(s, sent->local_index))
        return;
    if (train->flags & JV_TRAIN_GSO_FAILED)
        s->no_gso = true;
    if (train->flags & JV_TRAIN_LOCAL_STALE)
        forget_local(&s->endpoint, train->to);
    if (s->paths && e->now_ns < s->paths->extra_until_ns)
        jv_extra_train(e, s, train);
}

void jv_tx_settle(struct jv_engine *e, struct jv_worker *w) {
    for (uint32_t i = 0; w->tx.notable && i < w->tx.trains; i++)
        settle(e, &w->tx.sent[i], &w->tx.train[i]);
    jv_tx_reset(w);
}
