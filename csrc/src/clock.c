/* SPDX-License-Identifier: Apache-2.0 */
/* WireGuard's timers of a session (whitepaper §6.5): keepalive, silence, persistent keepalive, erasure.
 *
 * The packet path only stores due times. The wheel's node stands at the earliest of them or before it: due
 * times mostly move later, so the node is left where it is and looked at again when it fires. */
#include "engine_internal.h"

static uint64_t sooner(uint64_t a, uint64_t b) {
    return b && (!a || b < a) ? b : a;
}

void jv_clock_arm(struct jv_engine *e, struct jv_session *s) {
    uint64_t at = sooner(s->due.keepalive_ns, s->due.silent_ns);
    at = sooner(at, s->due.persistent_ns);
    at = sooner(at, s->due.erase_ns);
    at = sooner(at, s->due.paths_ns);
    if (!at || (jv_timer_armed(&s->timer) && at >= s->timer.deadline_ns))
        return;
    jv_wheel_arm(&e->wheel, &s->timer, at);
    e->sooner |= at < e->asleep_ns;
}

static void persist(struct jv_engine *e, struct jv_session *s) {
    if (s->persistent_s)
        s->due.persistent_ns = e->now_ns + s->persistent_s * JV_NS_PER_S;
}

void jv_clock_sent(struct jv_engine *e, struct jv_session *s, bool data) {
    s->due.keepalive_ns = 0;
    persist(e, s);
    if (data && !s->due.silent_ns) {
        s->due.silent_ns = e->now_ns + e->limits.keepalive_ns + e->limits.rekey_timeout_ns;
        jv_clock_arm(e, s);
    }
}

void jv_clock_received(struct jv_engine *e, struct jv_session *s, bool data) {
    s->due.silent_ns = 0;
    persist(e, s);
    if (!data)
        return;
    if (s->due.keepalive_ns) {
        s->another_keepalive = true;
        return;
    }
    s->due.keepalive_ns = e->now_ns + e->limits.keepalive_ns;
    jv_clock_arm(e, s);
}

void jv_clock_installed(struct jv_engine *e, struct jv_session *s) {
    s->due.erase_ns = e->now_ns + 3 * e->limits.reject_after_ns;
    persist(e, s);
    jv_clock_arm(e, s);
}

static void keepalive_due(struct jv_engine *e, struct jv_session *s) {
    s->due.keepalive_ns = 0;
    jv_tx_keepalive(e, s);
    if (s->another_keepalive) {
        s->another_keepalive = false;
        s->due.keepalive_ns = e->now_ns + e->limits.keepalive_ns;
    }
}

static void erase_due(struct jv_engine *e, struct jv_session *s) {
    s->due.erase_ns = 0;
    jv_session_erase(s);
    jv_stage_drop(&e->stage, s, &e->counters);
    (void)jv_engine_report(e, s, (struct jv_event){.kind = JV_EVENT_ERASED}, NULL, 0);
}

static void fire(struct jv_engine *e, struct jv_session *s) {
    const uint64_t now_ns = e->now_ns;
    if (s->due.silent_ns && s->due.silent_ns <= now_ns) {
        s->due.silent_ns = 0;
        jv_engine_want(e, s, JV_WANTED_SILENT);
    }
    if (s->due.keepalive_ns && s->due.keepalive_ns <= now_ns)
        keepalive_due(e, s);
    if (s->due.persistent_ns && s->due.persistent_ns <= now_ns) {
        persist(e, s);
        jv_tx_keepalive(e, s);
    }
    if (s->due.erase_ns && s->due.erase_ns <= now_ns)
        erase_due(e, s);
    if (s->due.paths_ns && s->due.paths_ns <= now_ns)
        jv_paths_run(e, s);
    if (s->paths && s->paths->visitor)
        jv_visitors_leave(&e->lodge, s->paths, now_ns);
    jv_session_expire(s, now_ns, e->limits.reject_after_ns);
    jv_clock_arm(e, s);
}

static void on_timer(void *engine, struct jv_timer *timer) {
    fire(engine, jv_container_of(timer, struct jv_session, timer));
}

void jv_clock_run(struct jv_engine *e, uint32_t sessions_max) {
    (void)jv_wheel_advance(&e->wheel, e->now_ns, sessions_max, on_timer, e);
    jv_table_stock_windows(e->table);
    jv_lodge_stock(&e->lodge);
}

void jv_engine_tick(struct jv_engine *e, uint64_t now_ns) {
    JV_HOLD(e, now_ns);
    jv_clock_run(e, JV_TICK_SESSIONS);
}

uint64_t jv_engine_next_deadline(struct jv_engine *e) {
    JV_HOLD(e, 0);
    return jv_wheel_next_deadline(&e->wheel);
}
