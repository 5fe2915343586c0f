/* SPDX-License-Identifier: Apache-2.0 */
/* What probes and reports cost when there are many of them: fewer datagrams, and rings that never fill. */
#include "bed.h"

#define PROFILE_NS (300 * MS)

/* Both ends probe both paths; who is asked when it was about to ask does so in its answer. */
static void an_answer_takes_the_next_probe_along(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    const uint64_t probes = bed_count(&b.client, JV_CTR_TX_PROBES) + bed_count(&b.gateway, JV_CTR_TX_PROBES);
    const uint64_t sent = bed_count(&b.client, JV_CTR_TX_CONTROL) + bed_count(&b.gateway, JV_CTR_TX_CONTROL);
    CHECK(probes >= 24 && sent >= 3 * probes / 2 - 4 && sent <= 3 * probes / 2 + 4);
    for (uint8_t path = 1; path <= PATHS; path++)
        CHECK(bed_stats(&b, &b.client, path).streak >= 6 && bed_stats(&b, &b.gateway, path).streak >= 6);
    b.client.deaf[1] = true; /* who hears nothing still asks at its interval */
    b.client.events = 0;
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, 2) >= 2 && bed_seen(&b.gateway, JV_EVENT_MISSED, 2) >= 2);
    bed_close(&b);
}

/* What nobody takes piles up to a bound; what a decision needs is told beyond it. */
static void reports_are_shed_while_nobody_takes_them(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    CHECK(jv_engine_probe_path(b.client.engine, b.client.slot, 1, 10 * MS, true, b.now_ns) == 0);
    CHECK(jv_engine_probe_path(b.client.engine, b.client.slot, 2, 10 * MS, true, b.now_ns) == 0);
    b.client.busy = true;
    bed_run(&b, 10 * SECOND_NS);
    CHECK(bed_count(&b.client, JV_CTR_REPORTS_SHED) >= 1000);
    b.gateway.deaf[1] = true;
    bed_run(&b, 2 * SECOND_NS);
    CHECK(bed_count(&b.client, JV_CTR_DROP_RING_EVENT_FULL) == 0);
    b.client.busy = false;
    bed_keep(&b.client);
    CHECK(b.client.events >= 100 && b.client.events <= 1000);
    CHECK(bed_seen(&b.client, JV_EVENT_MISSED, 2) >= 3);
    bed_close(&b);
}

static void ping(struct bed *b) {
    const uint8_t frame[] = {1, JV_FRAME_PING, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    const struct jv_outgoing m = {.slot = b->client.slot, .path_id = 1, .plain = frame, .len = sizeof frame};
    CHECK(jv_engine_send_control(b->client.engine, &m, b->now_ns) == 0);
    bed_step(b, 10 * MS); /* as fast as the control rate allows */
}

/* Nobody takes them: 32 KB of one session's messages, then no more of it until all but one are taken. */
static void one_session_does_not_fill_the_ring(void) {
    struct bed b;
    bed_open(&b);
    b.gateway.busy = true;
    for (int i = 0; i < 400; i++)
        ping(&b);
    const uint64_t refused = bed_count(&b.gateway, JV_CTR_DROP_CONTROL_BEHIND);
    CHECK(refused >= 100 && refused <= 300 && bed_count(&b.gateway, JV_CTR_DROP_CONTROL_RATE) == 0);
    b.gateway.busy = false;
    bed_keep(&b.gateway);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 400 - (int)refused);
    ping(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 401 - (int)refused);
    bed_close(&b);
}

int main(void) {
    RUN(an_answer_takes_the_next_probe_along);
    RUN(reports_are_shed_while_nobody_takes_them);
    RUN(one_session_does_not_fill_the_ring);
    return failures();
}
