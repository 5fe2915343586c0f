/* SPDX-License-Identifier: Apache-2.0 */
/* Inwards: UDP -> TUN. Order of checks (protocol.md §5), each failing closed with a counter of its own:
 * size and type, receiver index, key age, tag, replay window, inner packet, allowed source.
 *
 * Nothing of a session changes before the tag has verified. */
#include "engine_internal.h"

#include <errno.h>
#include <string.h>

static bool may_notice(struct jv_engine *e, struct jv_session *s) {
    if (!s->notice_ns || e->now_ns - s->notice_ns >= JV_NS_PER_S) {
        s->notice_ns = e->now_ns;
        s->notices = 0;
    }
    if (s->notices < JV_NOTICES_PER_S) {
        s->notices++;
        return true;
    }
    jv_count(&e->counters, JV_CTR_NOTICE_LIMITED);
    return false;
}

/* What comes from there is what may be sent there, three times over (protocol.md §4); what it names no path
 * for is the path's once it moves there. */
static void credit_visitor(struct jv_engine *e, const struct jv_arrival *a) {
    struct jv_visitor *v = jv_visitor_take(a->session->paths, &a->msg->from, e->now_ns);
    if (!v)
        return;
    v->heard_ns = e->now_ns;
    v->earned_bytes += a->bytes;
    if (a->path)
        return;
    v->rx_packets++;
    v->rx_bytes += a->bytes;
}

void jv_rx_new_address(struct jv_engine *e, const struct jv_arrival *a, unsigned flags) {
    struct jv_session *s = a->session;
    if (s->paths && !e->client)
        credit_visitor(e, a);
    if (!may_notice(e, s))
        return;
    (void)jv_engine_report(e, s,
                           (struct jv_event){.kind = JV_EVENT_NOTICE,
                                             .path_id = a->path_id,
                                             .flags = (uint8_t)flags,
                                             .bytes = a->bytes,
                                             .value = flags & JV_NOTICE_NEWEST,
                                             .local_index = a->kp->local_index,
                                             .from = a->msg->from},
                           NULL, 0);
}

static void report_confirmed(struct jv_engine *e, const struct jv_arrival *a) {
    (void)jv_engine_report(e, a->session,
                           (struct jv_event){.kind = JV_EVENT_CONFIRMED,
                                             .bytes = a->bytes,
                                             .value = a->kp->local_index,
                                             .local_index = a->kp->local_index,
                                             .from = a->msg->from},
                           NULL, 0);
}

/* The responder's keypair is proven. One that is held goes on waiting in next, unless nothing seals. */
static void on_proven(struct jv_engine *e, const struct jv_arrival *a) {
    struct jv_session *s = a->session;
    const bool first = !a->kp->confirmed;
    a->kp->confirmed = true;
    if (!a->kp->hold || !jv_tx_usable(e, s->current)) {
        jv_session_confirm(s, e->now_ns);
        jv_clock_installed(e, s);
    }
    if (first)
        report_confirmed(e, a);
    if (s->current == a->kp)
        jv_tx_staged(e, s);
}

/* The initiator renews a key that could expire before the next packet gives it another chance (§6.2). */
static bool rekey_on_receive(const struct jv_engine *e, const struct jv_keypair *kp) {
    const struct jv_limits *l = &e->limits;
    return kp && kp->initiator &&
           e->now_ns - kp->birth_ns > l->reject_after_ns - l->keepalive_ns - l->rekey_timeout_ns;
}

static enum jv_counter inner_fault(int fault) {
    if (fault == JV_IP_SHORT)
        return JV_CTR_DROP_INNER_SHORT;
    return fault == JV_IP_VERSION ? JV_CTR_DROP_INNER_VERSION : JV_CTR_DROP_INNER_LENGTH;
}

static void deliver(struct jv_engine *e, struct jv_session *s, uint8_t *packet, uint32_t len) {
    struct jv_ip ip;
    const int fault = jv_ip_parse(packet, len, &ip);
    if (fault != JV_IP_OK) {
        jv_count(&e->counters, inner_fault(fault));
        return;
    }
    if (jv_engine_route(e, ip.version, ip.src) != s->slot) {
        jv_count(&e->counters, JV_CTR_DROP_SOURCE);
        return;
    }
    jv_sink_add(e, packet, &ip);
}

struct jv_keypair *jv_rx_key(struct jv_engine *e, const uint8_t *datagram, struct jv_session **session) {
    const uint32_t index = jv_get_le32(datagram + 4);
    struct jv_session *s = jv_table_by_index(e->table, index);
    if (!s) {
        jv_count(&e->counters, JV_CTR_DROP_INDEX);
        return NULL;
    }
    struct jv_keypair *kp = jv_session_keypair(s, index);
    if (!kp) {
        jv_count(&e->counters, JV_CTR_DROP_STALE_GENERATION);
        return NULL;
    }
    if (e->now_ns - kp->birth_ns >= e->limits.reject_after_ns) {
        jv_count(&e->counters, JV_CTR_DROP_KEY_EXPIRED);
        return NULL;
    }
    *session = s;
    return kp;
}

bool jv_rx_fresh(struct jv_engine *e, struct jv_replay *window, uint64_t counter) {
    switch (jv_replay_commit(window, counter)) {
    case JV_REPLAY_OK:
        return true;
    case JV_REPLAY_SEEN:
        jv_count(&e->counters, JV_CTR_DROP_REPLAY_SEEN);
        return false;
    default:
        jv_count(&e->counters, JV_CTR_DROP_REPLAY_OLD);
        return false;
    }
}

void jv_rx_locate(struct jv_arrival *a) {
    struct jv_paths *p = a->session->paths;
    a->path = a->at = p ? jv_paths_at(p, &a->msg->from) : NULL;
}

void jv_rx_count(const struct jv_arrival *a) {
    if (!a->path)
        return;
    a->path->rx_packets++;
    a->path->rx_bytes += a->bytes;
}

/* A session with paths knows those; any other the one address it sends to. */
static bool known_address(const struct jv_arrival *a) {
    const struct jv_session *s = a->session;
    if (s->paths && s->paths->used > 0)
        return a->at != NULL;
    return jv_endpoint_same_remote(&a->msg->from, &s->endpoint);
}

void jv_rx_accept(struct jv_engine *e, struct jv_arrival *a, bool data) {
    struct jv_session *s = a->session;
    const bool was_next = a->kp == s->next;
    if (was_next)
        on_proven(e, a);
    a->kp->heard_ns = e->now_ns; /* after it: the rotation asks what was heard before */
    if (a->path)
        jv_path_heard(a->path, e->now_ns);
    if (!known_address(a) && !(was_next && !s->paths))
        jv_rx_new_address(e, a, a->newest ? JV_NOTICE_NEWEST : 0);
    s->rx_packets++;
    s->rx_bytes += a->bytes;
    jv_clock_received(e, s, data);
    if (rekey_on_receive(e, s->current))
        jv_engine_want(e, s, JV_WANTED_REKEY);
}

void jv_rx_inner(struct jv_engine *e, struct jv_arrival *a, uint8_t *inner, uint32_t len) {
    struct jv_session *s = a->session;
    if (len == 0) {
        jv_count(&e->counters, JV_CTR_RX_KEEPALIVE);
        return;
    }
    if (inner[0] == JV_FRAMES_MARK) {
        jv_control_message(e, a, inner, len);
        return;
    }
    if (jv_unlikely(s->mute)) {
        jv_count(&e->counters, JV_CTR_DROP_UNGREETED);
        return;
    }
    jv_count(&e->counters, JV_CTR_RX_DATA);
    if (s->paths)
        jv_paths_active(e, s);
    deliver(e, s, inner, len);
}

static void rx_transport(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    struct jv_arrival a = {.msg = msg, .bytes = len, .type = JV_TYPE_TRANSPORT};
    a.kp = jv_rx_key(e, datagram, &a.session);
    if (!a.kp)
        return;
    const uint64_t counter = jv_get_le64(datagram + 8);
    uint8_t *inner = datagram + JV_HEADER_BYTES;
    if (counter >= e->limits.reject_after_messages ||
        jv_aead_open(&a.kp->recv, counter, NULL, 0, inner, len - JV_HEADER_BYTES, inner) != 0) {
        jv_count(&e->counters, JV_CTR_DROP_AUTH);
        return;
    }
    jv_rx_locate(&a); /* type 4 names no path */
    jv_rx_count(&a);  /* replayed copies as well */
    if (!jv_rx_fresh(e, &a.kp->window, counter))
        return;
    a.newest = counter == jv_replay_highest(&a.kp->window);
    const uint32_t inner_len = len - JV_HEADER_BYTES - JV_TAG_BYTES;
    jv_rx_accept(e, &a, inner_len > 0);
    jv_rx_inner(e, &a, inner, inner_len);
}

static void rx_handshake(struct jv_engine *e, const struct jv_msg *msg, const uint8_t *datagram,
                         uint32_t len) {
    struct jv_event *event = jv_ring_reserve(e->handshakes, (uint32_t)(sizeof *event + len));
    if (!event) {
        jv_count(&e->counters, JV_CTR_DROP_RING_HANDSHAKE_FULL);
        return;
    }
    *event =
        (struct jv_event){.kind = JV_EVENT_HANDSHAKE, .len = (uint16_t)len, .bytes = len, .from = msg->from};
    memcpy(event->data, datagram, len);
    jv_ring_commit(e->handshakes, (uint32_t)(sizeof *event + len));
    e->handshakes_waiting++;
    jv_count(&e->counters, JV_CTR_RX_HANDSHAKE);
}

/* Sizes of messages 1..3 are fixed; anything else of those types is not WireGuard. */
static const uint16_t handshake_bytes[4] = {0, 148, 92, 64};

static void rx_datagram(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    if (len < JV_MIN_DATAGRAM_BYTES) {
        jv_count(&e->counters, JV_CTR_DROP_SHORT);
        return;
    }
    const uint32_t type = jv_get_le32(datagram); /* with the three reserved bytes, which are zero */
    if (type == JV_TYPE_TRANSPORT)
        rx_transport(e, msg, datagram, len);
    else if ((type & 0xff) == JV_TYPE_JUMP)
        jv_control_rx(e, msg, datagram, len);
    else if (type >= 1 && type <= 3 && len == handshake_bytes[type])
        rx_handshake(e, msg, datagram, len);
    else if (type >= 1 && type <= 3)
        jv_count(&e->counters, JV_CTR_DROP_LENGTH);
    else
        jv_count(&e->counters, JV_CTR_DROP_TYPE);
}

/* A message is a train: equal datagrams one after another, the last may be shorter (UDP_GRO). */
static uint32_t rx_train(struct jv_engine *e, const struct jv_msg *msg) {
    uint32_t datagrams = 0;
    for (uint32_t at = 0; at < msg->len; at += msg->segment_bytes, datagrams++) {
        const uint32_t left = msg->len - at;
        rx_datagram(e, msg, msg->data + at, left < msg->segment_bytes ? left : msg->segment_bytes);
    }
    return datagrams ? datagrams : 1; /* an empty datagram is work as well */
}

/* The burst's memory is used again by the next receive, so the sink is emptied before it. */
int jv_engine_pump_udp(struct jv_engine *e, int socket_id, uint64_t now_ns) {
    const struct jv_socket *sock = jv_engine_socket(e, socket_id);
    uint32_t taken = 0;
    if (!sock)
        return -ENOENT;
    e->now_ns = now_ns;
    while (taken < JV_RX_DATAGRAMS) {
        const int n = jv_burst_recv(e->burst, sock->fd, (uint16_t)socket_id, &e->counters);
        if (jv_local_error(-n)) { /* taking it up has cleared it; the socket lives */
            jv_engine_socket_failed(e, socket_id, -n);
            break;
        }
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++)
            taken += rx_train(e, &jv_burst_msgs(e->burst)[i]);
        jv_sink_flush(e);
        if (n < JV_BURST_MSGS_GRO)
            break;
    }
    return (int)taken;
}
