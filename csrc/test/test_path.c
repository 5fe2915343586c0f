/* SPDX-License-Identifier: Apache-2.0 */
/* Liveness and measurement of paths, binding, duplication and copies, on a clock of our own. */
#include "bed.h"

#define PROFILE_NS (300 * MS)

static void probes_measure_every_path(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 5 * SECOND_NS);
    for (uint8_t path = 1; path <= PATHS; path++) {
        const struct jv_path_stats stats = bed_stats(&b, &b.client, path);
        CHECK(stats.measured.rtt_samples >= 15 && stats.measured.rtt_samples <= 18);
        CHECK(stats.measured.srtt_us >= 4000 && stats.measured.srtt_us <= 12000);
        CHECK(stats.misses == 0 && !stats.suspect && stats.streak >= 15 && stats.pto_ns == 20 * MS);
        CHECK(stats.measured.lost == 0);
        CHECK(bed_seen(&b.client, JV_EVENT_ANSWERED, path) == 0); /* it has missed none: nothing to trust */
        CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, path) >= 1);
        CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, path) <= 6);
    }
    CHECK(bed_stats(&b, &b.client, 1).bound && !bed_stats(&b, &b.client, 2).bound);
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, -1) == 0 && bed_seen(&b.client, JV_EVENT_SUSPECTED, -1) == 0);
    bed_close(&b);
}

/* Traffic on the other path keeps nothing alive. */
static void a_dead_standby_is_missed(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    b.client.events = 0;
    b.gateway.deaf[1] = true;
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, 2) >= 2 && bed_seen(&b.client, JV_EVENT_MISSED, 1) == 0);
    CHECK(bed_last(&b.client, JV_EVENT_MISSED)->event.reason >= 3);
    const struct seen *first = NULL;
    for (int i = 0; i < b.client.events && !first; i++)
        if (b.client.seen[i].event.kind == JV_EVENT_MISSED)
            first = &b.client.seen[i];
    CHECK(first && first->event.reason == 2);
    CHECK(first && first->event.value >= 600 * MS && first->event.value <= 1300 * MS);
    b.gateway.deaf[1] = false;
    bed_run(&b, 11 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_ANSWERED, 2) >= 3 && bed_seen(&b.client, JV_EVENT_ANSWERED, 2) <= 10);
    CHECK(bed_stats(&b, &b.client, 2).misses == 0);
    bed_close(&b);
}

/* A death is told in full, a path that stays dead when its silence has doubled (the journal keeps every
 * report). */
static void a_dead_path_does_not_chatter(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    b.client.events = 0;
    b.gateway.deaf[0] = b.client.deaf[0] = true;
    const uint64_t cut_ns = b.now_ns;
    uint64_t spans_two_ns = 0;
    for (int i = 0; i < 2000; i++) {
        bed_put(&b, &b.client, 100);
        bed_step(&b, 5 * MS);
        const struct seen *last = bed_last(&b.client, JV_EVENT_MISSED);
        if (!spans_two_ns && last && last->event.value >= 2 * PROFILE_NS)
            spans_two_ns = b.now_ns - cut_ns;
    }
    CHECK(spans_two_ns <= 2 * PROFILE_NS + 50 * MS); /* not a second later: it decides without a standby */
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, 1) >= 7 + 4 && bed_seen(&b.client, JV_EVENT_MISSED, 1) <= 14);
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, 2) == 0);
    bed_close(&b);
}

/* A blackhole under traffic: silence 100 ms, one probe for a PTO, then suspicion and probes every 30 ms. */
static void silence_after_data_is_suspect(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    for (int i = 0; i < 200; i++) {
        bed_put(&b, &b.client, 100);
        bed_put(&b, &b.gateway, 100);
        bed_step(&b, 5 * MS);
    }
    CHECK(bed_seen(&b.client, JV_EVENT_SUSPECTED, -1) == 0);
    b.gateway.deaf[0] = b.client.deaf[0] = true;
    b.client.events = 0;
    const uint64_t cut_ns = b.now_ns;
    uint64_t suspected_ns = 0, two_ns = 0, three_ns = 0;
    for (int i = 0; i < 100; i++) {
        bed_put(&b, &b.client, 100);
        bed_step(&b, 5 * MS);
        if (!suspected_ns && bed_seen(&b.client, JV_EVENT_SUSPECTED, 1))
            suspected_ns = b.now_ns - cut_ns;
        const struct seen *missed = bed_last(&b.client, JV_EVENT_MISSED);
        if (!two_ns && missed && missed->event.reason >= 2)
            two_ns = b.now_ns - cut_ns;
        if (!three_ns && missed && missed->event.reason >= 3)
            three_ns = b.now_ns - cut_ns;
    }
    CHECK(suspected_ns >= 120 * MS && suspected_ns <= 135 * MS);
    CHECK(two_ns && two_ns <= 200 * MS && three_ns && three_ns <= 230 * MS);
    CHECK(bed_seen(&b.client, JV_EVENT_SUSPECTED, 1) == 1 && bed_seen(&b.client, JV_EVENT_SUSPECTED, 2) == 0);
    CHECK(bed_stats(&b, &b.client, 1).suspect);
    b.gateway.deaf[0] = b.client.deaf[0] = false;
    bed_run(&b, 200 * MS);
    CHECK(!bed_stats(&b, &b.client, 1).suspect && bed_stats(&b, &b.client, 1).misses == 0);
    bed_close(&b);
}

/* One-way traffic asks for one probe per silence, and its answer is enough. */
static void one_way_traffic_is_not_suspect(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 5 * SECOND_NS);
    bed_run(&b, 100 * MS);
    const uint64_t before = bed_count(&b.client, JV_CTR_TX_PROBES);
    for (int i = 0; i < 200; i++) {
        bed_put(&b, &b.client, 100);
        bed_step(&b, 5 * MS);
    }
    const uint64_t probes = bed_count(&b.client, JV_CTR_TX_PROBES) - before;
    CHECK(probes >= 7 && probes <= 10);
    CHECK(bed_seen(&b.client, JV_EVENT_SUSPECTED, -1) == 0);
    bed_close(&b);
}

/* Three of ten packets never arrive; the figure comes from the probes' counters. */
static void loss_is_what_did_not_arrive(void) {
    struct bed b;
    const struct jv_thresholds limits = {.loss_enter_ppm = 50000, .loss_exit_ppm = 20000};
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    CHECK(jv_engine_set_thresholds(b.client.engine, b.client.slot, &limits) == 0);
    for (int i = 0; i < 600; i++) {
        b.gateway.deaf[0] = i % 10 < 3;
        bed_put(&b, &b.client, 100);
        bed_step(&b, 5 * MS);
    }
    b.gateway.deaf[0] = false;
    bed_run(&b, 10 * MS);
    const struct jv_measured m = bed_stats(&b, &b.client, 1).measured;
    CHECK(m.packets >= 64 && m.loss_ppm > 240000 && m.loss_ppm < 360000);
    const struct seen *seen = &b.client.seen[0];
    while (seen < b.client.seen + b.client.events && seen->measured.loss_ppm < 200000)
        seen++;
    CHECK(seen < b.client.seen + b.client.events && seen->event.path_id == 1);
    CHECK(bed_stats(&b, &b.client, 2).measured.lost == 0);
    bed_run(&b, 12 * SECOND_NS); /* it recovers, and the report says so */
    CHECK(bed_stats(&b, &b.client, 1).measured.loss_ppm == 0);
    bed_close(&b);
}

static void report_tells_every_answer(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    CHECK(jv_engine_probe_path(b.client.engine, b.client.slot, 2, 100 * MS, true, b.now_ns) == 0);
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_ANSWERED, 2) >= 18 && bed_seen(&b.client, JV_EVENT_ANSWERED, 2) <= 21);
    CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, 2) == bed_seen(&b.client, JV_EVENT_ANSWERED, 2));
    CHECK(bed_last(&b.client, JV_EVENT_ANSWERED)->event.reason >= 18);
    CHECK(jv_engine_probe_path(b.client.engine, b.client.slot, 2, 0, false, b.now_ns) == 0);
    b.client.events = 0;
    bed_run(&b, 3 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_ANSWERED, 2) <= 1);
    CHECK(jv_engine_probe_path(b.client.engine, b.client.slot, 9, 0, false, b.now_ns) == -ENOENT);
    bed_close(&b);
}

/* About one measurement a second of each path while there is traffic, none while nobody needs them. */
static void a_steady_path_is_measured_once_a_second(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    b.client.events = 0;
    for (int i = 0; i < 200; i++) {
        bed_put(&b, &b.client, 100);
        bed_run(&b, 50 * MS);
    }
    for (uint8_t path = 1; path <= PATHS; path++) {
        CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, path) >= 7);
        CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, path) <= 12);
    }
    bed_run(&b, 11 * SECOND_NS);
    b.client.events = 0;
    bed_run(&b, 10 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_MEASURED, -1) == 0);
    CHECK(bed_stats(&b, &b.client, 1).measured.rtt_samples >= 60);
    bed_close(&b);
}

static void the_other_ends_binding_is_told_when_it_changes(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_PEER_BINDING, -1) == 1);
    CHECK(bed_last(&b.client, JV_EVENT_PEER_BINDING)->event.path_id == 1);
    CHECK(bed_last(&b.client, JV_EVENT_PEER_BINDING)->event.value == 1);
    CHECK(jv_engine_bind(b.gateway.engine, b.gateway.slot, 2, 2, b.now_ns) == 0);
    bed_run(&b, PROFILE_NS + 20 * MS);
    CHECK(bed_last(&b.client, JV_EVENT_PEER_BINDING)->event.path_id == 2);
    CHECK(bed_last(&b.client, JV_EVENT_PEER_BINDING)->event.value == 2);
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 2, 2, b.now_ns) == 0);
    CHECK(jv_engine_clear_binding(b.gateway.engine, b.gateway.slot, 2) == 0);
    bed_run(&b, PROFILE_NS + 20 * MS);
    CHECK(bed_last(&b.client, JV_EVENT_PEER_BINDING)->event.path_id == 0);
    bed_close(&b);
}

static void data_goes_by_the_binding_and_waits_without(void) {
    struct bed b;
    bed_open(&b);
    const uint64_t first = bed_stats(&b, &b.gateway, 1).rx_packets;
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 2, 2, b.now_ns) == 0);
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1 && bed_stats(&b, &b.gateway, 2).rx_packets == 1);
    CHECK(bed_stats(&b, &b.gateway, 1).rx_packets == first && bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 0);
    CHECK(jv_engine_clear_binding(b.client.engine, b.client.slot, 2) == 0);
    for (int i = 0; i < 100; i++)
        bed_put(&b, &b.client, 10);
    bed_settle(&b);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0 && bed_count(&b.client, JV_CTR_DROP_STAGING_FULL) == 36);
    CHECK(bed_seen(&b.client, JV_EVENT_WANTED, -1) == 0); /* a key is there, only a path is missing */
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 1, 3, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 64);
    CHECK(jv_engine_drop_path(b.client.engine, b.client.slot, 1) == 0);
    CHECK(jv_engine_drop_path(b.client.engine, b.client.slot, 1) == -ENOENT);
    bed_put(&b, &b.client, 10);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0);
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 1, 4, b.now_ns) == -ENOENT);
    bed_close(&b);
}

/* While the other end is asked to bind a path data may go there already, and probes do not claim it. */
static void a_lent_path_carries_data_and_claims_nothing(void) {
    struct bed b;
    bed_open(&b);
    struct jv_engine *e = b.client.engine;
    CHECK(jv_engine_lend(e, b.client.slot, 2, b.now_ns) == -EBUSY); /* bound elsewhere */
    CHECK(jv_engine_clear_binding(e, b.client.slot, 1) == 0);
    for (int i = 0; i < 10; i++)
        bed_put(&b, &b.client, 10);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0);
    CHECK(jv_engine_lend(e, b.client.slot, 9, b.now_ns) == -ENOENT);
    CHECK(jv_engine_lend(e, b.client.slot, 2, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 10 && bed_stats(&b, &b.gateway, 2).rx_packets >= 10);
    struct jv_endpoint more = b.client.from[1];
    for (uint8_t id = 3; id < 6; id++) { /* the block moves in memory meanwhile */
        more.remote.v4.sin_port = htons((uint16_t)(1000 + id));
        CHECK(jv_engine_set_path(e, b.client.slot, id, &more, b.now_ns) == 0);
    }
    bed_liveness(&b, PROFILE_NS);
    bed_put(&b, &b.client, 10);
    bed_run(&b, PROFILE_NS + 20 * MS);
    CHECK(bed_take(&b.gateway) == 1 && bed_stats(&b, &b.client, 2).tx_packets >= 11);
    CHECK(bed_last(&b.gateway, JV_EVENT_PEER_BINDING)->event.path_id == 0);
    CHECK(!bed_stats(&b, &b.client, 2).bound);
    CHECK(jv_engine_drop_path(e, b.client.slot, 2) == 0);
    bed_put(&b, &b.client, 10);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0);
    CHECK(jv_engine_lend(e, b.client.slot, 1, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    CHECK(jv_engine_clear_binding(e, b.client.slot, 1) == 0);
    bed_put(&b, &b.client, 10);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0);
    CHECK(jv_engine_bind(e, b.client.slot, 1, 2, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1 && bed_stats(&b, &b.client, 1).bound);
    bed_close(&b);
}

static void duplicates_are_removed_and_bounded(void) {
    struct bed b;
    struct jv_engine *e;
    bed_open(&b);
    e = b.client.engine;
    CHECK(jv_engine_duplicate(e, b.client.slot, 1, 9, b.now_ns + SECOND_NS, b.now_ns) == -ENOENT);
    CHECK(jv_engine_duplicate(e, b.client.slot, 1, 2, b.now_ns + 60 * SECOND_NS, b.now_ns) == 0);
    for (int i = 0; i < 50; i++) {
        bed_put(&b, &b.client, 100);
        bed_step(&b, MS);
    }
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 50 && bed_count(&b.gateway, JV_CTR_DROP_REPLAY_SEEN) == 50);
    CHECK(bed_stats(&b, &b.gateway, 2).rx_packets == 50 && bed_stats(&b, &b.client, 2).tx_packets == 50);
    b.gateway.deaf[0] = true; /* the active dies silently: nothing is lost meanwhile */
    for (int i = 0; i < 50; i++) {
        bed_put(&b, &b.client, 100);
        bed_step(&b, MS);
    }
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 50);
    bed_run(&b, 2 * SECOND_NS); /* not 60 s: cut to two */
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0);
    CHECK(jv_engine_duplicate(e, b.client.slot, 1, 2, b.now_ns + SECOND_NS, b.now_ns) == -EAGAIN);
    bed_run(&b, 8 * SECOND_NS);
    CHECK(jv_engine_duplicate(e, b.client.slot, 1, 2, b.now_ns + SECOND_NS, b.now_ns) == 0);
    CHECK(bed_count(&b.client, JV_CTR_TX_DUPLICATES) == 100);
    CHECK(jv_engine_duplicate(e, b.client.slot, 1, 0, b.now_ns, b.now_ns) == 0); /* whoever stands by */
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_count(&b.client, JV_CTR_TX_DUPLICATES) == 100);
    bed_close(&b);
}

/* A new address gets no more than three times what came from it, copies and challenges together. */
static void an_unproven_address_earns_three_times_what_it_sent(void) {
    struct bed b;
    static const uint8_t ping[] = {1, JV_FRAME_PING, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    bed_open(&b);
    CHECK(jv_engine_drop_path(b.gateway.engine, b.gateway.slot, 2) == 0);
    const struct jv_endpoint *there = &b.gateway.from[1];
    struct jv_outgoing m = {.slot = b.gateway.slot, .to = there, .plain = ping, .len = sizeof ping};
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == -EACCES);
    struct jv_outgoing hint = {.slot = b.client.slot, .plain = ping, .len = sizeof ping, .path_id = 2};
    CHECK(jv_engine_send_control(b.client.engine, &hint, b.now_ns) == 0); /* 16 + 13 + 16 bytes */
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, 2) == 1);
    CHECK(bed_last(&b.gateway, JV_EVENT_NOTICE)->event.bytes == 45);
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0); /* charged padded: 48 */
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0);
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == -EDQUOT);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_CONTROL_BUDGET) == 1);
    for (int i = 0; i < 10; i++)
        CHECK(jv_engine_send_control(b.client.engine, &hint, b.now_ns) == 0);
    bed_settle(&b);
    const uint64_t until_ns = b.now_ns + SECOND_NS;
    CHECK(jv_engine_copy_to(b.gateway.engine, b.gateway.slot, there, until_ns, 0, b.now_ns) == 0);
    for (int i = 0; i < 50; i++)
        bed_put(&b, &b.gateway, 108); /* 160 bytes sealed */
    bed_settle(&b);
    CHECK(bed_take(&b.client) == 50);
    CHECK(bed_count(&b.gateway, JV_CTR_TX_COPIES) == (11 * 45 * 3 - 96) / 160);
    CHECK(bed_count(&b.client, JV_CTR_DROP_REPLAY_SEEN) == bed_count(&b.gateway, JV_CTR_TX_COPIES));
    for (int i = 0; i < 10; i++)
        CHECK(jv_engine_send_control(b.client.engine, &hint, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(jv_engine_stop_copy(b.gateway.engine, b.gateway.slot, there) == 0);
    bed_put(&b, &b.gateway, 108);
    bed_settle(&b);
    CHECK(bed_count(&b.gateway, JV_CTR_TX_COPIES) == (11 * 45 * 3 - 96) / 160);
    bed_close(&b);
}

/* The client answers its configured gateway only; the gateway one under validation, within the budget. */
static void probes_from_elsewhere(void) {
    struct bed b;
    bed_open(&b);
    CHECK(jv_engine_drop_path(b.gateway.engine, b.gateway.slot, 2) == 0);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 2).streak >= 3);
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, 2) >= 3);
    CHECK(jv_engine_set_path(b.gateway.engine, b.gateway.slot, 2, &b.gateway.from[1], b.now_ns) == 0);
    CHECK(bed_stats(&b, &b.gateway, 2).rx_packets >= 3);
    bed_run(&b, SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 2).measured.lost == 0);
    CHECK(jv_engine_drop_path(b.client.engine, b.client.slot, 2) == 0);
    const uint64_t before = bed_count(&b.client, JV_CTR_DROP_CONTROL_PATH);
    bed_run(&b, SECOND_NS);
    CHECK(bed_count(&b.client, JV_CTR_DROP_CONTROL_PATH) > before);
    CHECK(bed_stats(&b, &b.gateway, 2).misses >= 2);
    bed_close(&b);
}

static void idle_sessions_share_the_budget(void) {
    struct bed b;
    bed_open(&b);
    jv_engine_set_probe_budget(b.client.engine, 1); /* two paths: one probe each in 2 s */
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 12 * SECOND_NS);
    CHECK(jv_engine_idle_paths(b.client.engine) == 2);
    CHECK(jv_engine_idle_interval(b.client.engine) == 2 * SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 1).interval_ns == 2 * SECOND_NS);
    const uint64_t before = bed_count(&b.client, JV_CTR_TX_PROBES);
    bed_run(&b, 10 * SECOND_NS);
    const uint64_t probes = bed_count(&b.client, JV_CTR_TX_PROBES) - before;
    CHECK(probes >= 8 && probes <= 12);
    b.gateway.deaf[0] = b.client.deaf[0] = true; /* died unnoticed: the first packet finds out */
    b.client.events = 0;
    const uint64_t sent_ns = b.now_ns;
    bed_put(&b, &b.client, 100);
    while (!bed_seen(&b.client, JV_EVENT_SUSPECTED, 1) && b.now_ns < sent_ns + SECOND_NS)
        bed_step(&b, 5 * MS);
    CHECK(b.now_ns - sent_ns <= 135 * MS);
    CHECK(jv_engine_idle_paths(b.client.engine) == 0);
    CHECK(bed_stats(&b, &b.client, 2).interval_ns == JV_BUSY_INTERVAL_MAX_NS); /* its share is longer */
    CHECK(jv_engine_remove_session(b.client.engine, b.client.slot) == 0);
    CHECK(jv_engine_next_deadline(b.client.engine) == UINT64_MAX);
    bed_close(&b);
}

static void a_path_that_moves_keeps_its_figures(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    const struct jv_path_stats before = bed_stats(&b, &b.gateway, 1);
    struct jv_endpoint elsewhere = b.gateway.from[0];
    elsewhere.remote.v4.sin_port = htons(9);
    CHECK(jv_engine_set_path(b.gateway.engine, b.gateway.slot, 1, &elsewhere, b.now_ns) == 0);
    CHECK(bed_stats(&b, &b.gateway, 1).measured.srtt_us == before.measured.srtt_us);
    struct jv_outgoing m = {.slot = b.gateway.slot,
                            .to = &b.gateway.from[0],
                            .plain = (const uint8_t[]){1, JV_FRAME_PING, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8},
                            .len = 13};
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0); /* the previous address */
    /* Path 2 claims the first one's old address: it moves there, and nobody else has it. */
    CHECK(jv_engine_set_path(b.gateway.engine, b.gateway.slot, 2, &b.gateway.from[0], b.now_ns) == 0);
    CHECK(jv_engine_set_path(b.gateway.engine, b.gateway.slot, 1, &b.gateway.from[0], b.now_ns) == 0);
    struct jv_path_stats gone;
    CHECK(jv_engine_path_stats(b.gateway.engine, b.gateway.slot, 2, b.now_ns, &gone) == -ENOENT);
    bed_close(&b);
}

static void there_are_eight_paths_and_no_more(void) {
    struct bed b;
    bed_open(&b);
    struct jv_endpoint at = b.client.from[0];
    bed_liveness(&b, PROFILE_NS);
    for (uint8_t id = 3; id <= JV_PATHS_MAX; id++) {
        at.remote.v4.sin_port = htons((uint16_t)(1000 + id));
        CHECK(jv_engine_set_path(b.client.engine, b.client.slot, id, &at, b.now_ns) == 0);
    }
    at.remote.v4.sin_port = htons(2000);
    CHECK(jv_engine_set_path(b.client.engine, b.client.slot, 9, &at, b.now_ns) == -ENOSPC);
    CHECK(jv_engine_set_path(b.client.engine, b.client.slot, 0, &at, b.now_ns) == -ENOENT);
    CHECK(bed_stats(&b, &b.client, 1).bound); /* the block has moved in memory meanwhile */
    bed_put(&b, &b.client, 50);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    bed_close(&b);
}

/* Without any path nothing is allocated, probed or armed. */
static void a_stock_session_pays_nothing(void) {
    struct bed b;
    bed_open(&b);
    CHECK(jv_engine_erase_keys(b.client.engine, b.client.slot, b.client.index) == 0);
    CHECK(jv_engine_set_endpoint(b.client.engine, b.client.slot, &b.client.from[0], b.now_ns) == 0);
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    CHECK(jv_engine_set_liveness(b.client.engine, b.client.slot, 1, 0, b.now_ns) == -ENOENT);
    CHECK(bed_count(&b.client, JV_CTR_TX_PROBES) == 0);
    bed_close(&b);
}

/* The formulas of RFC 6298 §2 and RFC 3550 §6.4.1 on figures worked out by hand. */
static void estimators(void) {
    struct jv_path p = {.id = 1};
    uint64_t now_ns = SECOND_NS;
    jv_path_reset(&p, now_ns);
    CHECK(jv_path_pto_ns(&p) == 200 * MS && jv_path_silence_ns(&p) == 100 * MS);
    static const uint32_t rtt_us[] = {100000, 140000, 60000};
    for (int i = 0; i < 3; i++) {
        const uint64_t seq = jv_path_probe_sent(&p, now_ns);
        now_ns += rtt_us[i] * 1000ull + 7 * MS; /* held for 7 ms at the other end */
        CHECK(jv_path_answered(&p, seq, 0, 7 * MS, 0, now_ns));
    }
    /* 100000/50000; +40000: 47500, 105000, jitter 2500; -45000 from 105000: 46875, 99375, 2500 + 77500/16 */
    CHECK(p.srtt_us == 99375 && p.rttvar_us == 46875 && p.jitter_us == 7343);
    CHECK(jv_path_pto_ns(&p) == (99375 + 4 * 46875) * 1000ull && jv_path_silence_ns(&p) == 298125000);
    CHECK(p.rtt_samples == 3 && p.jitter_samples == 2 && p.streak == 3);
    CHECK(!jv_path_answered(&p, 99, 0, 0, 0, now_ns)); /* no probe of ours */
    CHECK(!jv_path_answered(&p, 0, 0, 0, 0, now_ns));
    CHECK(!jv_path_answered(&p, 1, now_ns + 1, 0, 0, now_ns - 20 * SECOND_NS));
}

static void answers_out_of_order(void) {
    struct jv_path p = {.id = 1};
    uint64_t now_ns = SECOND_NS;
    jv_path_reset(&p, now_ns);
    for (int i = 0; i < JV_OPEN_PROBES; i++) {
        CHECK(jv_path_may_probe(&p));
        p.tx_packets += 10;
        (void)jv_path_probe_sent(&p, now_ns += 10 * MS);
    }
    CHECK(!jv_path_may_probe(&p)); /* the ring is full until one is answered or missed */
    CHECK(jv_path_answered(&p, 8, 0, 0, 80, now_ns += MS));
    CHECK(jv_path_answered(&p, 3, 0, 0, 30, now_ns += MS)); /* late, still an answer */
    CHECK(jv_path_measured(&p, now_ns).lost == 0);
    CHECK(jv_path_miss(&p, 30 * MS, now_ns + SECOND_NS) == 6 && p.misses == 6 && p.streak == 0);
    CHECK(jv_path_miss(&p, 30 * MS, now_ns + SECOND_NS) == 0);
    CHECK(jv_path_answered(&p, 5, 0, 0, 80, now_ns + 2 * SECOND_NS) && p.misses == 0);
}

/* Nothing is allocated where a visitor is met: it gets what was made ready, or nothing; who left gives it
 * back. */
static void slots_for_visitors_are_lent(void) {
    struct jv_lodge lodge = {0};
    struct jv_endpoint at = {.socket = 1};
    struct jv_paths *p = jv_paths_resize(NULL, 2), *q = jv_paths_resize(NULL, 2);
    CHECK(p && q && !p->visitor && !jv_visitor_at(p, &at, SECOND_NS));
    CHECK(!jv_visitor_take(&lodge, p, &at, SECOND_NS));
    jv_lodge_stock(&lodge);
    CHECK(lodge.spares == JV_LODGE_SPARES);
    struct jv_visitor *v = jv_visitor_take(&lodge, p, &at, SECOND_NS);
    CHECK(v && v->earned_bytes == 0 && lodge.spares == JV_LODGE_SPARES - 1);
    v->earned_bytes = 100;
    v->copy_until_ns = 20 * SECOND_NS;
    jv_visitors_leave(&lodge, p, SECOND_NS);
    CHECK(jv_visitor_at(p, &at, 2 * SECOND_NS) == v);
    jv_visitors_leave(&lodge, p, 19 * SECOND_NS); /* silent for long, but copied to */
    CHECK(p->visitor);
    jv_visitors_leave(&lodge, p, 20 * SECOND_NS);
    CHECK(!p->visitor && lodge.spares == JV_LODGE_SPARES);
    v = jv_visitor_take(&lodge, q, &at,
                        21 * SECOND_NS); /* the same memory, and nothing of the other's in it */
    CHECK(v && v->earned_bytes == 0 && v->copy_until_ns == 0);
    jv_paths_free(p);
    jv_paths_free(q);
    jv_lodge_free(&lodge);
    CHECK(lodge.spares == 0);
}

int main(void) {
    RUN(slots_for_visitors_are_lent);
    RUN(estimators);
    RUN(answers_out_of_order);
    RUN(probes_measure_every_path);
    RUN(a_dead_standby_is_missed);
    RUN(a_dead_path_does_not_chatter);
    RUN(silence_after_data_is_suspect);
    RUN(one_way_traffic_is_not_suspect);
    RUN(loss_is_what_did_not_arrive);
    RUN(report_tells_every_answer);
    RUN(a_steady_path_is_measured_once_a_second);
    RUN(the_other_ends_binding_is_told_when_it_changes);
    RUN(data_goes_by_the_binding_and_waits_without);
    RUN(a_lent_path_carries_data_and_claims_nothing);
    RUN(duplicates_are_removed_and_bounded);
    RUN(an_unproven_address_earns_three_times_what_it_sent);
    RUN(probes_from_elsewhere);
    RUN(idle_sessions_share_the_budget);
    RUN(a_path_that_moves_keeps_its_figures);
    RUN(there_are_eight_paths_and_no_more);
    RUN(a_stock_session_pays_nothing);
    return failures();
}
