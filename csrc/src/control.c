/* SPDX-License-Identifier: Apache-2.0 */
/* Jump frames in and out: type 5 messages of suite 0, and type 4 messages whose plaintext begins with the
 * mark (protocol.md §2, §3).
 *
 * Order of checks of a type 5 message: receiver index, key age, suite, tag, replay window, the path's control
 * rate, the whole list of frames. Only then does any frame act. */
#include "engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- inwards
 * ------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const struct jv_engine *e, const struct jv_msg *msg) {
    return (uint32_t)jv_endpoint_hash(&msg->from, e->hash_key);
}

/* Never 0, which is a free row. */
static uint32_t now_ms(const struct jv_engine *e) {
    return (uint32_t)(e->now_ns / JV_NS_PER_MS) | 1;
}

static void remember(struct jv_engine *e, const struct jv_arrival *a, uint64_t counter) {
    struct jv_paths *p = a->session->paths;
    if (!p)
        return;
    p->recent[p->recent_next] = (struct jv_recent){
        .counter = (uint32_t)counter,
        .at_ms = now_ms(e),
        .from_hash = hash_of(e, a->msg),
        .local_index = a->kp->local_index,
    };
    p->recent_next = (uint8_t)((p->recent_next + 1) % JV_RECENT_MAX);
}

/* A copy proves that its sender can see our peer's packets, no more: its address earns a challenge, so that
 * one who always forwards faster cannot hide the real address (session.md §7). */
static void copy_seen(struct jv_engine *e, const struct jv_arrival *a, uint64_t counter) {
    const struct jv_paths *p = a->session->paths;
    if (!p || a->at)
        return;
    for (unsigned i = 0; i < JV_RECENT_MAX; i++) {
        const struct jv_recent *r = &p->recent[i];
        if (r->at_ms && r->counter == (uint32_t)counter && r->local_index == a->kp->local_index &&
            now_ms(e) - r->at_ms <= JV_COPY_SEEN_WITHIN_NS / JV_NS_PER_MS &&
            r->from_hash != hash_of(e, a->msg)) {
            jv_rx_new_address(e, a, JV_NOTICE_COPY);
            return;
        }
    }
}

/* Opens in place. */
static bool open_control(struct jv_engine *e, const struct jv_keypair *kp, uint8_t *datagram, uint32_t len) {
    const uint64_t counter = jv_get_le64(datagram + 8);
    uint8_t *plain = datagram + JV_HEADER_BYTES;
    if (!kp->control) {
        jv_count(&e->counters, JV_CTR_DROP_SUITE);
        return false;
    }
    if (counter >= e->limits.reject_after_messages ||
        jv_aead_open(&kp->control->recv, counter, datagram, JV_HEADER_BYTES, plain, len - JV_HEADER_BYTES,
                     plain) != 0) {
        jv_count(&e->counters, JV_CTR_DROP_AUTH);
        return false;
    }
    return true;
}

/* The header is authenticated: its path, when we have it, is the one that sent the message. */
void jv_control_credit(struct jv_arrival *a) {
    struct jv_path *named = a->session->paths ? jv_paths_by_id(a->session->paths, a->path_id) : NULL;
    if (named)
        a->path = named;
}

void jv_control_rx(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    struct jv_arrival a = {.msg = msg, .bytes = len, .path_id = datagram[2], .type = JV_TYPE_JUMP};
    const uint64_t counter = jv_get_le64(datagram + 8);
    a.kp = jv_rx_key(e, datagram, &a.session);
    if (!a.kp || !open_control(e, a.kp, datagram, len))
        return;
    jv_rx_locate(&a);
    if (!jv_rx_fresh(e, &a.kp->control->window, counter)) {
        jv_rx_count(&a); /* a copy is where it came from, whatever it names */
        copy_seen(e, &a, counter);
        return;
    }
    jv_control_credit(&a);
    jv_rx_count(&a);
    a.newest = counter == jv_replay_highest(&a.kp->control->window);
    remember(e, &a, counter);
    jv_rx_accept(e, &a, true);
    jv_control_message(e, &a, datagram + JV_HEADER_BYTES, len - JV_HEADER_BYTES - JV_TAG_BYTES);
}

static bool is_opening(uint8_t type) {
    return type == JV_FRAME_HELLO || type == JV_FRAME_WELCOME || type == JV_FRAME_REFUSE;
}

/* The frames C acts on itself, read before any of them acts. */
struct probes {
    struct jv_probe probe[JV_FRAMES_MAX];
    struct jv_probe_ack ack[JV_FRAMES_MAX];
    unsigned asked, answered;
};

/* How many frames are Python's, or -1: the message breaks a rule. */
static int sort_frames(const struct jv_arrival *a, const struct jv_frame *frames, int n, struct probes *out) {
    int others = 0;
    for (int i = 0; i < n; i++) {
        const struct jv_frame *f = &frames[i];
        if (is_opening(f->type) != (a->type == JV_TYPE_TRANSPORT))
            return -1;
        if (f->type == JV_FRAME_PROBE) {
            if (jv_probe_get(f, &out->probe[out->asked++]) != 0)
                return -1;
        } else if (f->type == JV_FRAME_PROBE_ACK) {
            if (jv_probe_ack_get(f, &out->ack[out->answered++]) != 0)
                return -1;
        } else {
            others++;
        }
    }
    return others;
}

/* A peer resends what is not answered, sooner than a gateway answers thousands of them: copies wait for
 * nobody's turn. */
static bool has_its_turn(const struct jv_engine *e, const struct jv_session *s) {
    const bool behind = jv_ring_waiting_bytes(e->controls) >= JV_RING_BEHIND_BYTES;
    return s->controls < (behind ? JV_CONTROLS_BEHIND : UINT8_MAX);
}

static void hand_up(struct jv_engine *e, const struct jv_arrival *a, const uint8_t *plain, uint32_t len) {
    if (!has_its_turn(e, a->session)) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_BEHIND);
        return;
    }
    struct jv_event *event = jv_ring_reserve(e->controls, (uint32_t)(sizeof *event + len));
    if (!event) {
        jv_count(&e->counters, JV_CTR_DROP_RING_CONTROL_FULL);
        return;
    }
    *event = (struct jv_event){
        .kind = JV_EVENT_CONTROL,
        .reason = a->type,
        .len = (uint16_t)len,
        .path_id = a->path_id,
        .slot = a->session->slot,
        .bytes = a->bytes,
        .value = a->at ? a->at->id : 0,
        .local_index = a->kp->local_index,
        .order = e->order++,
        .from = a->msg->from,
    };
    memcpy(event->data, plain, len);
    a->session->controls++;
    jv_engine_publish(e, e->controls, (uint32_t)(sizeof *event + len));
}

void jv_control_message(struct jv_engine *e, const struct jv_arrival *a, const uint8_t *plain, uint32_t len) {
    struct jv_frame frames[JV_FRAMES_MAX];
    struct probes probes = {.asked = 0};
    const int n = jv_frames_walk(plain, len, e->client ? JV_TO_CLIENT : JV_TO_GATEWAY, frames);
    uint64_t *full_ns = a->path ? &a->path->control_ns : &a->session->control_ns;
    jv_count(&e->counters, JV_CTR_RX_CONTROL);
    if (!jv_control_allowed(full_ns, e->now_ns, n > 1 ? (unsigned)n : 1)) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_RATE);
        return;
    }
    const int others = n < 0 ? -1 : sort_frames(a, frames, n, &probes);
    if (others < 0) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_FRAMES);
        return;
    }
    for (unsigned i = 0; i < probes.asked; i++)
        jv_probe_answer(e, a, &probes.probe[i]);
    for (unsigned i = 0; i < probes.answered; i++)
        jv_probe_answered(e, a, &probes.ack[i]);
    if (others > 0)
        hand_up(e, a, plain, len);
}

/* --- outwards
 * ------------------------------------------------------------------------------------------------ */

static bool seals_control(const struct jv_engine *e, const struct jv_keypair *kp) {
    return jv_tx_usable(e, kp) && kp->control;
}

/* We said HELLO under it and no WELCOME has come, or the peer's first message under it has not. */
static bool unproven(const struct jv_keypair *kp) {
    return kp && !kp->confirmed && (kp->hold || !kp->initiator);
}

/* A client's fresh keypair carries control from its WELCOME on (protocol.md §3); one before it, until then.
 */
struct jv_keypair *jv_control_key(const struct jv_engine *e, const struct jv_session *s) {
    struct jv_keypair *const before[] = {s->previous, s->older};
    for (size_t i = 0; unproven(s->current) && i < JV_ARRAY_LEN(before); i++)
        if (!unproven(before[i]) && seals_control(e, before[i]))
            return before[i];
    return seals_control(e, s->current) ? s->current : NULL;
}

static int send_datagram(struct jv_engine *e, struct jv_path *path, const struct jv_endpoint *to,
                         size_t bytes) {
    struct jv_train train = {.data = e->control, .len = (uint32_t)bytes, .to = to};
    const uint32_t sent = jv_engine_transmit(e, to->socket, &train, 1);
    if (path && train.flags & JV_TRAIN_LOCAL_STALE) {
        memset(&path->endpoint.local, 0, sizeof path->endpoint.local);
        path->endpoint.local_ifindex = 0;
    }
    return sent == 1 ? 0 : -EAGAIN;
}

/* The message is in e->control, sealed. Counted on its path as sent: what the socket refuses is lost too. */
static int send_sealed(struct jv_engine *e, struct jv_session *s, const struct jv_keypair *kp,
                       struct jv_path *path, const struct jv_endpoint *to, size_t bytes) {
    jv_count(&e->counters, JV_CTR_TX_CONTROL);
    if (path)
        jv_paths_sent(e, s, path, 1, bytes, false);
    jv_tx_sealed(e, s, kp, 1, bytes, true);
    return send_datagram(e, path, to, bytes);
}

int jv_control_send(struct jv_engine *e, struct jv_session *s, struct jv_keypair *kp, struct jv_path *path,
                    const struct jv_endpoint *to, size_t len) {
    uint8_t *header = e->control, *plain = jv_control_plain(e);
    const uint64_t counter = kp->control->send_counter++;
    header[0] = JV_TYPE_JUMP;
    header[1] = JV_SUITE_CONTROL;
    header[2] = path ? path->id : 0;
    header[3] = 0;
    jv_put_le32(header + 4, kp->remote_index);
    jv_put_le64(header + 8, counter);
    jv_aead_seal(&kp->control->send, counter, header, JV_HEADER_BYTES, plain, len, plain);
    return send_sealed(e, s, kp, path, to, jv_control_datagram(len));
}

/* HELLO, WELCOME, REFUSE: a data message like any other, padded to 16 (whitepaper §5.4.6). */
static int send_opening(struct jv_engine *e, struct jv_session *s, struct jv_keypair *kp,
                        struct jv_path *path, const struct jv_endpoint *to, size_t len) {
    uint8_t *header = e->control, *plain = jv_control_plain(e);
    const size_t full = (len + 15) & ~(size_t)15;
    const uint64_t counter = kp->send_counter++;
    memset(plain + len, 0, full - len);
    jv_put_le32(header, JV_TYPE_TRANSPORT);
    jv_put_le32(header + 4, kp->remote_index);
    jv_put_le64(header + 8, counter);
    jv_aead_seal(&kp->send, counter, NULL, 0, plain, full, plain);
    return send_sealed(e, s, kp, path, to, jv_control_datagram(full));
}

/* --- what Python sends
 * --------------------------------------------------------------------------------------- */

static struct jv_keypair *key_for(const struct jv_engine *e, const struct jv_session *s,
                                  const struct jv_outgoing *m) {
    if (!m->local_index && !m->as_data)
        return jv_control_key(e, s);
    struct jv_keypair *kp = m->local_index ? jv_session_keypair(s, m->local_index) : s->current;
    return jv_tx_usable(e, kp) && (m->as_data || kp->control) ? kp : NULL;
}

static bool is_previous(const struct jv_paths *p, const struct jv_endpoint *to) {
    for (unsigned i = 0; i < p->capacity; i++)
        if (p->row[i].id && p->row[i].previous.remote.family != AF_UNSPEC &&
            jv_endpoint_same_remote(&p->row[i].previous, to))
            return true;
    return false;
}

/* May this address be written to? A path, a path's last address, the handshake's, or within the budget. */
static int allowed(struct jv_engine *e, struct jv_session *s, const struct jv_outgoing *m, size_t bytes) {
    if (!s->paths || jv_paths_at(s->paths, m->to) || is_previous(s->paths, m->to) ||
        jv_endpoint_same_remote(&s->endpoint, m->to))
        return 0;
    struct jv_visitor *v = jv_visitor_at(s->paths, m->to, e->now_ns);
    if (!v)
        return m->as_data ? 0 : -EACCES; /* an opening answers the handshake, which proved the address */
    if (jv_visitor_spend(v, bytes))
        return 0;
    jv_count(&e->counters, JV_CTR_DROP_CONTROL_BUDGET);
    return -EDQUOT;
}

/* The path the message counts on, and its address if the caller named none. */
static struct jv_path *resolve(struct jv_session *s, struct jv_outgoing *m) {
    struct jv_path *path = NULL;
    if (s->paths && m->to)
        return jv_paths_at(s->paths, m->to);
    if (s->paths)
        path = m->path_id ? jv_paths_by_id(s->paths, m->path_id) : jv_paths_data(s->paths);
    if (path)
        m->to = &path->endpoint;
    else if (!m->to && !m->path_id && s->endpoint.remote.family != AF_UNSPEC)
        m->to = &s->endpoint;
    return path;
}

int jv_engine_send_control(struct jv_engine *e, const struct jv_outgoing *message, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, message->slot);
    struct jv_outgoing m = *message;
    if (!s)
        return -ENOENT;
    if (m.len == 0 || m.len > JV_FRAMES_MESSAGE_MAX || m.plain[0] != JV_FRAMES_MARK)
        return -EINVAL;
    struct jv_keypair *kp = key_for(e, s, &m);
    if (!kp)
        return -ENOKEY;
    struct jv_path *path = resolve(s, &m);
    if (!m.to)
        return -EDESTADDRREQ;
    const int refused = allowed(e, s, &m, jv_control_datagram((m.len + 15) & ~(size_t)15));
    if (refused != 0)
        return refused;
    memcpy(jv_control_plain(e), m.plain, m.len);
    if (!m.as_data)
        return jv_control_send(e, s, kp, path, m.to, m.len);
    const int error = send_opening(e, s, kp, path, m.to, m.len);
    jv_tx_staged(e, s); /* data that waited for a held keypair may follow its HELLO */
    return error;
}
