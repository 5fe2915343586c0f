/* SPDX-License-Identifier: Apache-2.0 */
/* What Python decides about paths: which there are, where data goes, how often they are probed. Nothing here
 * runs on the packet path, and only here memory is taken for it. */
#include "jv/binding.h"

#include "engine_internal.h"

#include <errno.h>
#include <stdlib.h>

#define DUP_MAX_NS   (2 * JV_NS_PER_S)
#define DUP_EVERY_NS (10 * JV_NS_PER_S)

/* --- the block of rows
 * --------------------------------------------------------------------------------------- */

static int need_paths(struct jv_session *s, unsigned rows) {
    struct jv_paths *old = s->paths;
    if (old && old->capacity >= rows)
        return 0;
    struct jv_paths *p = jv_paths_resize(old, rows);
    if (!p)
        return -ENOMEM;
    if (!old)
        p->idle = true; /* nothing has passed yet: thousands that come at once report nothing they need not */
    s->paths = p;
    return 0;
}

static struct jv_path *path_of(struct jv_engine *e, uint32_t slot, uint8_t id, struct jv_session **session) {
    *session = jv_table_get(e->table, slot);
    return *session && (*session)->paths ? jv_paths_by_id((*session)->paths, id) : NULL;
}

int jv_engine_open_paths(struct jv_engine *e, uint32_t slot, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    return s ? need_paths(s, 1) : -ENOENT;
}

int jv_engine_promote(struct jv_engine *e, uint32_t slot, uint32_t local_index, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    if (s->current && s->current->local_index == local_index) {
        s->current->confirmed = true; /* the initiator's, or there was no other to wait behind */
        return 0;
    }
    if (!s->next || s->next->local_index != local_index || !s->next->confirmed)
        return -ENOENT;
    jv_session_confirm(s, now_ns);
    jv_clock_installed(e, s);
    jv_tx_staged(e, s);
    return 0;
}

int jv_engine_mute(struct jv_engine *e, uint32_t slot, bool mute, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    s->mute = mute;
    if (!mute)
        jv_tx_staged(e, s);
    return 0;
}

/* --- paths
 * --------------------------------------------------------------------------------------------------- */

static struct jv_path *free_row(struct jv_session *s) {
    const unsigned capacity = s->paths ? s->paths->capacity : 0;
    for (unsigned i = 0; i < capacity; i++)
        if (s->paths->row[i].id == 0)
            return &s->paths->row[i];
    const unsigned more = capacity < 2 ? 2 : 2 * capacity;
    if (more > JV_PATHS_MAX || need_paths(s, more) != 0)
        return NULL;
    return &s->paths->row[capacity];
}

static void begin(struct jv_engine *e, struct jv_paths *p, struct jv_path *path, uint8_t id,
                  const struct jv_endpoint *at) {
    *path = (struct jv_path){.id = id, .endpoint = *at};
    jv_path_reset(path, e->now_ns);
    path->next_probe_ns = p->profile_ns ? e->now_ns : 0;
    p->used++;
    e->paths++;
    e->idle_paths += p->idle;
}

/* The same path from another address: what was measured stays, what was missed may have been the old address.
 */
static void move(struct jv_engine *e, struct jv_path *path, const struct jv_endpoint *at) {
    const bool same = jv_endpoint_same_remote(&path->endpoint, at) && path->endpoint.socket == at->socket;
    if (!same)
        path->previous = path->endpoint;
    path->endpoint = *at;
    if (same)
        return;
    jv_path_heard(path, e->now_ns);
    path->misses = 0;
    path->suspect = false;
    path->mtu_wanted = true;
    for (unsigned i = 0; i < JV_OPEN_PROBES; i++)
        path->open[i].open = 0;
}

/* What came from there while it was validated arrived on this path. */
static void settle_visitor(struct jv_engine *e, struct jv_paths *p, struct jv_path *path) {
    struct jv_visitor *v = jv_visitor_at(p, &path->endpoint, e->now_ns);
    if (!v)
        return;
    path->rx_packets += v->rx_packets;
    path->rx_bytes += v->rx_bytes;
    *v = (struct jv_visitor){.heard_ns = 0};
    jv_visitors_leave(&e->lodge, p, e->now_ns);
}

static void unbind(struct jv_session *s) {
    s->paths->bound = s->paths->lent = NULL;
    s->endpoint = (struct jv_endpoint){.socket = 0};
}

static void drop(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    if (jv_paths_data(s->paths) == path)
        unbind(s);
    *path = (struct jv_path){.id = 0};
    s->paths->used--;
    e->paths--;
    e->idle_paths -= s->paths->idle;
}

int jv_engine_set_path(struct jv_engine *e, uint32_t slot, uint8_t path_id, const struct jv_endpoint *at,
                       uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s || path_id == 0)
        return -ENOENT;
    struct jv_path *there = s->paths ? jv_paths_at(s->paths, at) : NULL;
    if (there && there->id != path_id)
        drop(e, s, there); /* an address is one path: the newer claim is the validated one */
    struct jv_path *path = s->paths ? jv_paths_by_id(s->paths, path_id) : NULL;
    if (path) {
        move(e, path, at);
    } else {
        path = free_row(s);
        if (!path)
            return -ENOSPC;
        begin(e, s->paths, path, path_id, at);
    }
    settle_visitor(e, s->paths, path);
    jv_paths_arm(e, s);
    return 0;
}

int jv_engine_drop_path(struct jv_engine *e, uint32_t slot, uint8_t path_id) {
    JV_HOLD(e, 0);
    struct jv_session *s;
    struct jv_path *path = path_of(e, slot, path_id, &s);
    if (!path)
        return -ENOENT;
    drop(e, s, path);
    jv_paths_arm(e, s);
    return 0;
}

void jv_paths_close(struct jv_engine *e, struct jv_session *s) {
    jv_paths_uncount(e, s);
    e->paths -= s->paths ? s->paths->used : 0;
    jv_paths_free(s->paths);
    s->paths = NULL;
    s->due.paths_ns = 0;
}

static void send_by(struct jv_engine *e, struct jv_session *s, const struct jv_path *path) {
    s->endpoint = path->endpoint;
    s->no_gso = false;
    jv_tx_staged(e, s);
}

int jv_engine_bind(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t epoch, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s;
    struct jv_path *path = path_of(e, slot, path_id, &s);
    if (!path)
        return -ENOENT;
    s->paths->bound = path;
    s->paths->lent = NULL;
    s->paths->epoch = epoch;
    path->mtu_wanted = true;
    send_by(e, s, path);
    jv_pmtu_search(e, s);
    return 0;
}

int jv_engine_lend(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s;
    struct jv_path *path = path_of(e, slot, path_id, &s);
    if (!path)
        return -ENOENT;
    if (s->paths->bound)
        return -EBUSY;
    s->paths->lent = path;
    send_by(e, s, path);
    return 0;
}

int jv_engine_clear_binding(struct jv_engine *e, uint32_t slot, uint64_t epoch) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    if (need_paths(s, 1) != 0)
        return -ENOMEM;
    unbind(s);
    s->paths->epoch = epoch;
    return 0;
}

/* --- probing
 * ------------------------------------------------------------------------------------------------- */

int jv_engine_set_liveness(struct jv_engine *e, uint32_t slot, uint64_t interval_ns, uint64_t idle_ns,
                           uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s || !s->paths)
        return -ENOENT;
    struct jv_paths *p = s->paths;
    p->profile_ns = interval_ns;
    p->idle_ns = idle_ns;
    for (unsigned i = 0; i < p->capacity; i++) {
        struct jv_path *path = &p->row[i];
        const uint64_t latest_ns = now_ns + interval_ns;
        if (!path->next_probe_ns || path->next_probe_ns > latest_ns)
            path->next_probe_ns = path->alive ? latest_ns : now_ns;
        if (interval_ns == 0 && path->interval_ns == 0)
            path->next_probe_ns = 0;
    }
    jv_paths_arm(e, s);
    return 0;
}

int jv_engine_set_thresholds(struct jv_engine *e, uint32_t slot, const struct jv_thresholds *limits) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s || !s->paths)
        return -ENOENT;
    s->paths->thresholds = *limits;
    return 0;
}

/* A path that is to be probed faster is probed at once, one that just was after the new interval. */
int jv_engine_probe_path(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t interval_ns,
                         bool report, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s;
    struct jv_path *path = path_of(e, slot, path_id, &s);
    if (!path)
        return -ENOENT;
    path->interval_ns = interval_ns;
    path->report = report;
    const uint64_t chosen_ns = jv_path_interval_ns(path, s->paths->profile_ns, 0, now_ns);
    const struct jv_open_probe *last = &path->open[path->seq % JV_OPEN_PROBES];
    const uint64_t next_ns = last->tx_ns ? last->tx_ns + chosen_ns : now_ns;
    if (chosen_ns == 0)
        path->next_probe_ns = 0;
    else if (!path->next_probe_ns || next_ns < path->next_probe_ns)
        path->next_probe_ns = next_ns;
    jv_paths_arm(e, s);
    return 0;
}

int jv_engine_path_stats(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns,
                         struct jv_path_stats *out) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s;
    const struct jv_path *path = path_of(e, slot, path_id, &s);
    if (!path)
        return -ENOENT;
    const struct jv_paths *p = s->paths;
    *out = (struct jv_path_stats){
        .measured = jv_path_measured(path, now_ns),
        .tx_packets = path->tx_packets,
        .tx_bytes = path->tx_bytes,
        .rx_packets = path->rx_packets,
        .rx_bytes = path->rx_bytes,
        .heard_ns = path->heard_ns,
        .answered_ns = path->proof_ns,
        .pto_ns = jv_path_pto_ns(path),
        .interval_ns = jv_probe_interval(e, p, path),
        .mtu_bytes = path->mtu_bytes,
        .misses = path->misses,
        .streak = path->streak,
        .suspect = path->suspect,
        .bound = p->bound == path,
    };
    return 0;
}

/* --- data that goes elsewhere too
 * ---------------------------------------------------------------------------- */

static void extend_extra(struct jv_paths *p, uint64_t until_ns) {
    if (until_ns > p->extra_until_ns)
        p->extra_until_ns = until_ns;
}

int jv_engine_duplicate(struct jv_engine *e, uint32_t slot, uint8_t path_a, uint8_t path_b, uint64_t until_ns,
                        uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s;
    const bool both = path_of(e, slot, path_a, &s) && path_of(e, slot, path_b, &s) && path_a != path_b;
    struct jv_paths *p = s ? s->paths : NULL;
    if (p && until_ns <= now_ns) {
        p->dup_until_ns = 0;
        return 0;
    }
    if (!both)
        return -ENOENT;
    /* A beginning every ten seconds, each of at most two: no window of ten holds more than two. */
    if (p->dup_started_ns && now_ns - p->dup_started_ns < DUP_EVERY_NS)
        return -EAGAIN;
    p->dup_a = path_a;
    p->dup_b = path_b;
    p->dup_started_ns = now_ns;
    p->dup_until_ns = until_ns - now_ns > DUP_MAX_NS ? now_ns + DUP_MAX_NS : until_ns;
    extend_extra(p, p->dup_until_ns);
    return 0;
}

int jv_engine_copy_to(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to, uint64_t until_ns,
                      uint64_t credit_bytes, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    if (need_paths(s, 1) != 0)
        return -ENOMEM;
    struct jv_visitor *v = jv_visitor_take(&e->lodge, s->paths, to, now_ns);
    if (!v)
        return -EBUSY;
    v->earned_bytes += credit_bytes;
    v->copy_until_ns = until_ns;
    extend_extra(s->paths, until_ns);
    return 0;
}

int jv_engine_stop_copy(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s || !s->paths)
        return -ENOENT;
    for (unsigned i = 0; s->paths->visitor && i < JV_VISITORS_MAX; i++)
        if (jv_endpoint_same_remote(&s->paths->visitor[i].endpoint, to))
            s->paths->visitor[i].copy_until_ns = 0;
    return 0;
}
