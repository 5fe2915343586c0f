/* SPDX-License-Identifier: Apache-2.0 */
/* Inwards, the half under the lock: whose a datagram is, and what it means once its tag has verified. Nothing
 * of a session changes before that. rx.c calls all this, in the order of checks that it states. */
#include "engine_internal.h"

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
    struct jv_visitor *v = jv_visitor_take(&e->lodge, a->session->paths, &a->msg->from, e->now_ns);
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

/* What was opened says: nothing, frames, or an inner packet, which the route of its source lets pass. */
static bool inner_passes(struct jv_engine *e, struct jv_arrival *a, const struct jv_job *job) {
    struct jv_session *s = a->session;
    const uint8_t *inner = job->datagram + JV_HEADER_BYTES;
    if (job->inner_bytes == 0) {
        jv_count(&e->counters, JV_CTR_RX_KEEPALIVE);
        return false;
    }
    if (inner[0] == JV_FRAMES_MARK) {
        jv_control_message(e, a, inner, job->inner_bytes);
        return false;
    }
    if (jv_unlikely(s->mute)) {
        jv_count(&e->counters, JV_CTR_DROP_UNGREETED);
        return false;
    }
    jv_count(&e->counters, JV_CTR_RX_DATA);
    if (s->paths)
        jv_paths_active(e, s);
    if (job->fault != JV_IP_OK) {
        jv_count(&e->counters, inner_fault(job->fault));
        return false;
    }
    if (jv_engine_route(e, job->ip.version, job->ip.src) != s->slot) {
        jv_count(&e->counters, JV_CTR_DROP_SOURCE);
        return false;
    }
    return true;
}

/* Type 4 names no path, and the frames of type 5 travel as control, under a key of their own. A copy counts
 * where it came from, whatever it names. */
bool jv_rx_data(struct jv_engine *e, struct jv_arrival *a, const struct jv_job *job) {
    const uint64_t counter = jv_get_le64(job->datagram + 8);
    const bool jump = a->type == JV_TYPE_JUMP;
    jv_rx_locate(a);
    const bool fresh = jv_rx_fresh(e, &a->kp->window, counter);
    if (fresh && jump)
        jv_control_credit(a);
    jv_rx_count(a);
    if (!fresh)
        return false;
    if (jv_unlikely(counter >= JV_WINDOW_WHOLE_AT && !a->kp->grown))
        jv_table_grow_window(e->table, a->kp);
    a->newest = counter == jv_replay_highest(&a->kp->window);
    if (jump && job->inner_bytes > 0 && job->datagram[JV_HEADER_BYTES] == JV_FRAMES_MARK) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_FRAMES);
        return false;
    }
    jv_rx_accept(e, a, job->inner_bytes > 0);
    return inner_passes(e, a, job);
}
