/* SPDX-License-Identifier: Apache-2.0 */
/* Liveness of paths (session.md §4, §6; dataplane.md §2): when a probe leaves, what its answer says, and what
 * Python hears of it. All due times of a session's paths are one time in its row, on the wheel like
 * WireGuard's timers; the packet path only brings it forward. */
#include "engine_internal.h"

#include <errno.h>

/* --- what Python hears
 * --------------------------------------------------------------------------------------- */

static bool report(struct jv_engine *e, const struct jv_session *s, const struct jv_path *path,
                   enum jv_event_kind kind, unsigned reason, uint64_t value) {
    return jv_engine_report(
        e, s,
        (struct jv_event){
            .kind = (uint16_t)kind, .reason = (uint16_t)reason, .path_id = path->id, .value = value},
        NULL, 0);
}

/* The first misses are told one by one: a death is judged by their number and by the intervals that they
 * span. Once that is told, a path that stays silent is mentioned when its silence has doubled. */
static bool worth_telling(const struct jv_path *path, uint64_t profile_ns, uint64_t now_ns) {
    if (path->missed_ns < path->proof_ns)
        return path->misses >= 2;
    const uint64_t span_ns = now_ns - path->proof_ns, told_ns = path->missed_ns - path->proof_ns;
    const bool judged = path->misses > JV_MISSES_JUDGED && profile_ns && told_ns / profile_ns >= 2;
    if (!judged && path->misses <= JV_TOLD_MISSES_MAX)
        return path->misses >= 2;
    if (profile_ns && span_ns / profile_ns > told_ns / profile_ns && told_ns / profile_ns < 2)
        return true;
    return span_ns >= 2 * told_ns;
}

static void report_missed(struct jv_engine *e, const struct jv_session *s, struct jv_path *path) {
    if (!worth_telling(path, s->paths->profile_ns, e->now_ns))
        return;
    if (report(e, s, path, JV_EVENT_MISSED, path->misses, e->now_ns - path->proof_ns))
        path->missed_ns = e->now_ns;
}

/* The first, and what crosses a threshold or moves, at once; else one a second for the scores, none while
 * nobody needs them. Python takes a measurement for an answer as well. */
static bool worth_measuring(const struct jv_engine *e, const struct jv_paths *p, struct jv_path *path,
                            const struct jv_measured *m) {
    const bool due =
        path->reported_ns == 0 || (!p->idle && e->now_ns - path->reported_ns >= JV_REPORT_EVERY_NS);
    return due || path->report ||
           jv_path_moved(path, &p->thresholds, m, p->idle ? JV_REPORT_EVERY_NS : JV_MOVED_EVERY_NS,
                         e->now_ns);
}

static void report_measured(struct jv_engine *e, const struct jv_session *s, struct jv_path *path) {
    const struct jv_measured m = jv_path_measured(path, e->now_ns);
    if (!worth_measuring(e, s->paths, path, &m) || (path->reported_ns && jv_engine_sheds(e)))
        return;
    jv_path_told(path, &s->paths->thresholds, &m);
    path->reported_ns = e->now_ns;
    path->reported_srtt_us = m.srtt_us;
    path->reported_jitter_us = m.jitter_us;
    path->reported_loss_ppm = m.loss_ppm;
    if (!jv_engine_report(e, s, (struct jv_event){.kind = JV_EVENT_MEASURED, .path_id = path->id}, &m,
                          sizeof m))
        path->reported_ns = 0; /* at the next answer */
}

static uint8_t still_owed(unsigned streak) {
    return streak >= 30 ? 0 : streak >= 3 ? 1 : 2;
}

/* Every answer if asked for; of a path that has missed one, or was doubted, those at which trust grows. What
 * was not told for want of room is told at the next. */
static void report_answered(struct jv_engine *e, const struct jv_session *s, struct jv_path *path,
                            bool doubted) {
    const uint8_t owed = still_owed(path->streak);
    const bool grows = owed < path->owed;
    if (!doubted && !grows && (!path->report || jv_engine_sheds(e)))
        return;
    if (report(e, s, path, JV_EVENT_ANSWERED, path->streak, 0) && grows)
        path->owed = owed;
}

/* --- idle sessions
 * ------------------------------------------------------------------------------------------- */

uint64_t jv_paths_idle_interval(const struct jv_engine *e) {
    const uint64_t interval_ns = e->idle_paths * JV_NS_PER_S / e->probe_budget;
    return interval_ns < JV_IDLE_INTERVAL_MAX_NS ? interval_ns : JV_IDLE_INTERVAL_MAX_NS;
}

uint64_t jv_engine_idle_interval(struct jv_engine *e) {
    JV_HOLD(e, 0);
    return jv_paths_idle_interval(e);
}

uint32_t jv_engine_idle_paths(struct jv_engine *e) {
    JV_HOLD(e, 0);
    return e->idle_paths;
}

void jv_engine_set_probe_budget(struct jv_engine *e, uint32_t per_s) {
    JV_HOLD(e, 0);
    e->probe_budget = per_s ? per_s : 1;
}

void jv_paths_uncount(struct jv_engine *e, struct jv_session *s) {
    if (!s->paths || !s->paths->idle)
        return;
    s->paths->idle = false;
    e->idle_paths -= s->paths->used;
}

static void settle_idle(struct jv_engine *e, struct jv_paths *p) {
    if (p->idle || e->now_ns - p->inner_ns < JV_IDLE_AFTER_NS)
        return;
    p->idle = true;
    e->idle_paths += p->used;
}

/* What is looked at as often as there is a probe. */
static void look_around(struct jv_engine *e, struct jv_session *s) {
    settle_idle(e, s->paths);
    jv_window_look(e, s);
}

/* Of sessions with traffic, whose packets ask for a probe by themselves when they stay unanswered. */
static uint64_t busy_interval(const struct jv_engine *e) {
    const uint64_t interval_ns = e->paths * JV_NS_PER_S / e->probe_budget;
    return interval_ns < JV_BUSY_INTERVAL_MAX_NS ? interval_ns : JV_BUSY_INTERVAL_MAX_NS;
}

uint64_t jv_probe_interval(const struct jv_engine *e, const struct jv_paths *p, const struct jv_path *path) {
    const uint64_t idle_ns = p->idle_ns ? p->idle_ns : jv_paths_idle_interval(e);
    return jv_path_interval_ns(path, p->profile_ns, p->idle ? idle_ns : busy_interval(e), e->now_ns);
}

static uint64_t sooner(uint64_t a, uint64_t b) {
    return b && (!a || b < a) ? b : a;
}

/* An inner packet passes. After idleness probes come at the profile's interval again. */
void jv_paths_active(struct jv_engine *e, struct jv_session *s) {
    struct jv_paths *p = s->paths;
    p->inner_ns = e->now_ns;
    if (jv_likely(!p->idle))
        return;
    jv_paths_uncount(e, s);
    if (p->bound)
        p->bound->mtu_wanted = true;
    jv_pmtu_search(e, s);
    for (unsigned i = 0; i < p->capacity; i++) {
        struct jv_path *path = &p->row[i];
        if (path->id && path->next_probe_ns)
            path->next_probe_ns = sooner(path->next_probe_ns, e->now_ns + jv_probe_interval(e, p, path));
    }
    jv_paths_arm(e, s);
}

/* --- time
 * ---------------------------------------------------------------------------------------------------- */

void jv_paths_arm(struct jv_engine *e, struct jv_session *s) {
    uint64_t at = sooner(s->paths->pmtu.due_ns, s->paths->pmtu.again_ns);
    for (unsigned i = 0; i < s->paths->capacity; i++)
        if (s->paths->row[i].id)
            at = sooner(at, jv_path_due_ns(&s->paths->row[i], s->paths->profile_ns));
    s->due.paths_ns = at;
    jv_clock_arm(e, s);
}

void jv_paths_sent(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint64_t packets,
                   uint64_t bytes, bool data) {
    path->tx_packets += packets;
    path->tx_bytes += bytes;
    if (!data || path->data_ns)
        return;
    path->data_ns = e->now_ns;
    s->due.paths_ns = sooner(s->due.paths_ns, jv_path_suspect_due_ns(path));
    jv_clock_arm(e, s);
}

void jv_probe_fill(const struct jv_paths *p, const struct jv_path *path, size_t datagram_bytes,
                   struct jv_probe *out) {
    *out = (struct jv_probe){
        .tx_packets = path->tx_packets + 1,
        .tx_bytes = path->tx_bytes + datagram_bytes,
        .binding_epoch = p->epoch,
        .bound_path_id = p->bound ? p->bound->id : 0,
        .path_id = path->id,
    };
}

/* The frame of a probe, as the last one of a datagram of that size. The caller sends it, and then says so. */
static void put_probe(struct jv_engine *e, const struct jv_session *s, const struct jv_path *path,
                      size_t datagram_bytes, uint8_t *frame) {
    struct jv_probe probe;
    jv_probe_fill(s->paths, path, datagram_bytes, &probe);
    probe.tx_time_ns = e->now_ns;
    probe.seq = path->seq + 1;
    (void)jv_probe_put(frame, &probe);
}

/* A path whose loss is in doubt is asked more often, unless thousands are. */
static void plan_next(const struct jv_engine *e, const struct jv_session *s, struct jv_path *path,
                      uint64_t from_ns) {
    if (jv_overspent(e->probes_full_ns, e->now_ns))
        path->fill_until_ns = 0;
    const uint64_t interval_ns = jv_probe_interval(e, s->paths, path);
    path->next_probe_ns = interval_ns ? from_ns + interval_ns : 0;
}

static void probe_sent(struct jv_engine *e, struct jv_path *path) {
    jv_count(&e->counters, JV_CTR_TX_PROBES);
    jv_spend(&e->probes_full_ns, e->now_ns, e->probe_budget + e->probe_budget / 4 + 1);
    (void)jv_path_probe_sent(path, e->now_ns);
}

/* --- probes that leave with answers: one datagram instead of two
 * --------------------------------------------- */

/* Our own next probe is due within half an interval. It counts for when it was due, which keeps the pace. */
static bool may_ride(const struct jv_engine *e, const struct jv_session *s, const struct jv_path *path) {
    return path->next_probe_ns && jv_path_may_probe(path) &&
           path->next_probe_ns <= e->now_ns + jv_probe_interval(e, s->paths, path) / 2;
}

static void rode(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    probe_sent(e, path);
    look_around(e, s);
    plan_next(e, s, path, path->next_probe_ns);
}

/* Ends that ask at the same moment would for ever do so: the gateway lets its client go first. */
static void fall_behind(const struct jv_engine *e, const struct jv_session *s, struct jv_path *path) {
    const uint64_t interval_ns = jv_probe_interval(e, s->paths, path);
    if (!e->client && path->next_probe_ns && e->now_ns - jv_path_probed_ns(path) < interval_ns / 4)
        path->next_probe_ns = e->now_ns + interval_ns + interval_ns / 8;
}

/* Without a key there is nothing to ask with, and nothing to conclude from silence. */
static void send_probe(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    const size_t len = 1 + JV_PROBE_FRAME_BYTES;
    struct jv_keypair *kp = jv_control_key(e, s);
    uint8_t *plain = jv_control_plain(e);
    if (!kp || !jv_path_may_probe(path)) {
        plan_next(e, s, path, e->now_ns);
        return;
    }
    plain[0] = JV_FRAMES_MARK;
    put_probe(e, s, path, jv_control_datagram(len), plain + 1);
    (void)jv_control_send(e, s, kp, path, &path->endpoint, len); /* what is lost here is missed later */
    probe_sent(e, path);
    plan_next(e, s, path, e->now_ns);
}

static void run_path(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    const uint64_t now_ns = e->now_ns;
    if (jv_path_miss(path, s->paths->profile_ns, now_ns) > 0)
        report_missed(e, s, path);
    const uint64_t doubt_ns = jv_path_suspect_due_ns(path);
    const bool ask = doubt_ns && doubt_ns <= now_ns;
    if (ask && path->asked_ns) {
        path->suspect = true;
        (void)report(e, s, path, JV_EVENT_SUSPECTED, 0, 0);
    } else if (ask) {
        path->asked_ns = now_ns;
    }
    if (!ask && (!path->next_probe_ns || path->next_probe_ns > now_ns))
        return;
    send_probe(e, s, path);
}

void jv_paths_run(struct jv_engine *e, struct jv_session *s) {
    struct jv_paths *p = s->paths;
    s->due.paths_ns = 0;
    look_around(e, s);
    for (unsigned i = 0; i < p->capacity; i++)
        if (p->row[i].id)
            run_path(e, s, &p->row[i]);
    jv_pmtu_run(e, s);
    jv_paths_arm(e, s);
}

/* --- probes and answers that came
 * ---------------------------------------------------------------------------- */

/* The other end's view, when it changed; while it differs from ours, repeated at most once a second. An
 * overtaken message says nothing new. */
void jv_probe_binding(struct jv_engine *e, const struct jv_arrival *a, uint64_t epoch, uint8_t path_id) {
    struct jv_paths *p = a->session->paths;
    const bool same = p->peer_known && p->peer_epoch == epoch && p->peer_path == path_id;
    const bool agreed = epoch == p->epoch && path_id == (p->bound ? p->bound->id : 0);
    if (!a->newest || (same && (agreed || e->now_ns - p->peer_told_ns < JV_NS_PER_S)))
        return;
    if (same && jv_engine_sheds(e))
        return;
    p->peer_epoch = epoch;
    p->peer_path = path_id;
    p->peer_told_ns = e->now_ns;
    p->peer_known = jv_engine_report(
        e, a->session, (struct jv_event){.kind = JV_EVENT_PEER_BINDING, .path_id = path_id, .value = epoch},
        NULL, 0);
}

/* Who is answered: the path that the probe names, where that path was proven to be, wherever the probe came
 * from. A gateway that does not know it yet answers where it came from: one of its paths, or an address under
 * validation within its budget. */
struct asker {
    struct jv_path *path;
    struct jv_visitor *visitor;
};

static struct asker asker_of(const struct jv_engine *e, const struct jv_arrival *a, uint8_t path_id) {
    struct jv_paths *p = a->session->paths;
    struct asker who = {.path = p ? jv_paths_by_id(p, path_id) : NULL};
    if (who.path || e->client || !p)
        return who;
    who.path = a->at;
    who.visitor = a->at ? NULL : jv_visitor_at(p, &a->msg->from, e->now_ns);
    return who;
}

static bool may_answer(struct jv_engine *e, const struct asker *who, size_t bytes) {
    if (who->path)
        return true;
    if (!who->visitor) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_PATH);
        return false;
    }
    if (jv_visitor_spend(who->visitor, bytes))
        return true;
    jv_count(&e->counters, JV_CTR_DROP_CONTROL_BUDGET);
    return false;
}

void jv_probe_answer(struct jv_engine *e, const struct jv_arrival *a, const struct jv_probe *probe) {
    size_t len = 1 + JV_PROBE_ACK_FRAME_BYTES;
    struct jv_session *s = a->session;
    struct jv_keypair *kp = jv_control_key(e, s);
    const struct asker who = asker_of(e, a, probe->path_id);
    jv_count(&e->counters, JV_CTR_RX_PROBES);
    if (!may_answer(e, &who, jv_control_datagram(len)))
        return;
    jv_probe_binding(e, a, probe->binding_epoch, probe->bound_path_id);
    const struct jv_paths *p = s->paths;
    const struct jv_probe_ack ack = {
        .seq = probe->seq,
        .echo_time_ns = probe->tx_time_ns,
        .rx_packets = who.path ? who.path->rx_packets : who.visitor->rx_packets,
        .rx_bytes = who.path ? who.path->rx_bytes : who.visitor->rx_bytes,
        .binding_epoch = p->epoch,
        .path_id = probe->path_id,
        .bound_path_id = p->bound ? p->bound->id : 0,
    };
    const struct jv_endpoint *to = who.path ? &who.path->endpoint : &a->msg->from;
    uint8_t *plain = jv_control_plain(e);
    plain[0] = JV_FRAMES_MARK;
    (void)jv_probe_ack_put(plain + 1, &ack);
    const bool rides = kp && who.path && may_ride(e, s, who.path);
    if (rides) {
        put_probe(e, s, who.path, jv_control_datagram(len + JV_PROBE_FRAME_BYTES), plain + len);
        len += JV_PROBE_FRAME_BYTES;
    }
    (void)jv_control_send(e, s, kp ? kp : a->kp, who.path, to, len);
    if (rides)
        rode(e, s, who.path);
    else if (who.path)
        fall_behind(e, s, who.path);
}

void jv_probe_answered(struct jv_engine *e, const struct jv_arrival *a, const struct jv_probe_ack *ack) {
    struct jv_paths *p = a->session->paths;
    /* Evidence counts on the path that was asked, and there only, wherever the answer came from. */
    struct jv_path *path = p ? jv_paths_by_id(p, ack->path_id) : NULL;
    if (!path) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_PATH);
        return;
    }
    jv_probe_binding(e, a, ack->binding_epoch, ack->bound_path_id);
    if (jv_pmtu_answered(e, a->session, path, ack->seq))
        return;
    const bool doubted = path->suspect;
    if (!jv_path_answered(path, ack->seq, ack->echo_time_ns, ack->hold_time_ns, ack->rx_packets, e->now_ns)) {
        jv_count(&e->counters, JV_CTR_DROP_CONTROL_STALE);
        return;
    }
    report_answered(e, a->session, path, doubted);
    report_measured(e, a->session, path);
    jv_pmtu_search(e, a->session);
    jv_paths_arm(e, a->session);
}
