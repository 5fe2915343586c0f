/* SPDX-License-Identifier: Apache-2.0 */
/* Inwards: UDP -> TUN. Order of checks (protocol.md §5), each failing closed with a counter of its own:
 * size and type, receiver index, key age, tag, replay window, inner packet, allowed source.
 *
 * Nothing of a session changes before the tag has verified. */
#include "engine_internal.h"

#include <errno.h>
#include <string.h>

static void on_new_address(struct jv_engine *e, struct jv_session *s, const struct jv_msg *msg, bool newest) {
    if (e->now_ns - s->notice_ns < JV_NOTICE_INTERVAL_NS)
        return;
    s->notice_ns = e->now_ns;
    jv_engine_emit(e, s, JV_EVENT_NOTICE, 0, msg, newest);
}

static void on_confirmed(struct jv_engine *e, struct jv_session *s, const struct jv_msg *msg) {
    jv_session_confirm(s, e->now_ns);
    jv_clock_installed(e, s);
    jv_engine_emit(e, s, JV_EVENT_CONFIRMED, 0, msg, s->current->local_index);
    jv_tx_staged(e, s);
}

/* The initiator renews a key that could expire before the next packet gives it another chance (§6.2). */
static bool rekey_on_receive(const struct jv_engine *e, const struct jv_keypair *kp) {
    const struct jv_limits *l = &e->limits;
    return kp->initiator &&
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
    jv_sink_add(e, packet, ip.total_bytes);
}

static struct jv_keypair *find_key(struct jv_engine *e, const uint8_t *datagram,
                                   struct jv_session **session) {
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

static bool fresh(struct jv_engine *e, struct jv_keypair *kp, uint64_t counter) {
    switch (jv_replay_commit(&kp->window, counter)) {
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

static void rx_transport(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    struct jv_session *s;
    if (len < JV_HEADER_BYTES + JV_TAG_BYTES) {
        jv_count(&e->counters, JV_CTR_DROP_SHORT);
        return;
    }
    struct jv_keypair *kp = find_key(e, datagram, &s);
    if (!kp)
        return;
    const uint64_t counter = jv_get_le64(datagram + 8);
    uint8_t *inner = datagram + JV_HEADER_BYTES;
    if (counter >= e->limits.reject_after_messages ||
        jv_aead_open(&kp->recv, counter, NULL, 0, inner, len - JV_HEADER_BYTES, inner) != 0) {
        jv_count(&e->counters, JV_CTR_DROP_AUTH);
        return;
    }
    if (!fresh(e, kp, counter))
        return;
    const bool newest = counter == jv_replay_highest(&kp->window);
    if (kp == s->next)
        on_confirmed(e, s, msg);
    else if (!jv_endpoint_same_remote(&msg->from, &s->endpoint))
        on_new_address(e, s, msg, newest);
    const uint32_t inner_len = len - JV_HEADER_BYTES - JV_TAG_BYTES;
    s->rx_packets++;
    s->rx_bytes += len;
    jv_clock_received(e, s, inner_len > 0);
    if (rekey_on_receive(e, kp))
        jv_engine_want(e, s, JV_WANTED_REKEY);
    if (inner_len == 0) {
        jv_count(&e->counters, JV_CTR_RX_KEEPALIVE);
        return;
    }
    jv_count(&e->counters, JV_CTR_RX_DATA);
    deliver(e, s, inner, inner_len);
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
