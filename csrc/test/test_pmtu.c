/* SPDX-License-Identifier: Apache-2.0 */
/* The search for what a path carries, over sockets that lose what is larger, on a clock of our own. */
#include "bed.h"

#define PROFILE_NS (300 * MS)

/* What a path of `carried` inner bytes is found to carry; the datagram has 32 bytes more. */
static unsigned found_mtu(struct bed *b, unsigned carried) {
    bed_narrow(&b->gateway, 0, carried + 32);
    CHECK(jv_engine_bind(b->client.engine, b->client.slot, 1, 1, b->now_ns) == 0);
    bed_run(b, 4 * SECOND_NS);
    return bed_stats(b, &b->client, 1).mtu_bytes;
}

static void what_passes_is_found(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes == 0 && bed_seen(&b.client, JV_EVENT_PMTU, -1) == 0);
    static const unsigned carried[] = {1419, 1404, 1340, 1300, 1281, 1280, 1279, 1000, 600, 577, 576};
    for (size_t i = 0; i < sizeof carried / sizeof carried[0]; i++) {
        const unsigned found = found_mtu(&b, carried[i]);
        CHECK(found <= carried[i] && found + 8 >= carried[i]);
        const struct seen *seen = bed_last(&b.client, JV_EVENT_PMTU);
        CHECK(seen && seen->event.path_id == 1 && seen->event.value == found && seen->event.reason == 1);
    }
    CHECK(bed_seen(&b.client, JV_EVENT_PMTU, 2) == 0 && bed_stats(&b, &b.client, 2).mtu_bytes == 0);
    CHECK(found_mtu(&b, 500) == 576); /* nothing passes: nothing is learned */
    CHECK(found_mtu(&b, MTU) == 0 && bed_last(&b.client, JV_EVENT_PMTU)->event.reason == 0);
    CHECK(bed_seen(&b.gateway, JV_EVENT_PMTU, -1) == 0); /* one direction is no evidence about the other */
    bed_close(&b);
}

static void larger_ones_are_told(void) {
    struct bed b;
    uint8_t p[2048];
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    const unsigned mtu_bytes = found_mtu(&b, 1300);
    bed_put(&b, &b.client, mtu_bytes - 19); /* DF, one byte too long */
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0 && bed_count(&b.client, JV_CTR_DROP_MTU) == 1);
    const ssize_t n = recv(b.client.inner, p, sizeof p, 0);
    CHECK(n > 28 && p[9] == 1 && p[20] == 3 && p[21] == 4 && jv_get_be16(p + 26) == mtu_bytes);
    bed_put(&b, &b.client, mtu_bytes - 20);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    bed_narrow(&b.gateway, 0, 65535);
    const size_t whole = bed_packet(p, true, 1300, false); /* may be fragmented outside */
    CHECK(send(b.client.inner, p, whole, 0) == (ssize_t)whole);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 2, 2, b.now_ns) == 0);
    bed_put(&b, &b.client, MTU - 20); /* what one path carries says nothing of another */
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    bed_close(&b);
}

/* A bound path with traffic is asked once a minute, whichever way it changed; an idle one not at all. */
static void traffic_asks_again(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    bed_narrow(&b.gateway, 0, 1300);
    for (int s = 0; s < 65; s++) {
        bed_put(&b, &b.client, 100);
        bed_run(&b, SECOND_NS);
    }
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes >= 1260 && bed_take(&b.gateway) == 65);
    bed_narrow(&b.gateway, 0, 65535);
    bed_run(&b, 70 * SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes != 0);
    bed_put(&b, &b.client, 100);
    bed_run(&b, SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes == 0);
    bed_close(&b);
}

/* Large packets that vanish are found out by their loss, and are then no loss of the path. */
static void loss_asks_and_is_forgotten(void) {
    const struct jv_thresholds limits = {.loss_enter_ppm = 50000, .loss_exit_ppm = 20000};
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    CHECK(jv_engine_set_thresholds(b.client.engine, b.client.slot, &limits) == 0);
    bed_run(&b, SECOND_NS);
    bed_narrow(&b.gateway, 0, 1300);
    for (int i = 0; i < 400; i++) {
        bed_put(&b, &b.client, i % 4 ? 100 : 1350);
        bed_run(&b, 10 * MS);
    }
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes >= 1260);
    for (int i = 0; i < 200; i++) {
        bed_put(&b, &b.client, 100);
        bed_run(&b, 10 * MS);
    }
    CHECK(bed_stats(&b, &b.client, 1).measured.lost == 0);
    bed_close(&b);
}

/* A path that loses every other packet, large or small, is lossy and not narrow: its loss is not forgotten.
 */
static void a_lossy_path_is_not_narrow(void) {
    const struct jv_thresholds limits = {.loss_enter_ppm = 50000, .loss_exit_ppm = 20000};
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    CHECK(jv_engine_set_thresholds(b.client.engine, b.client.slot, &limits) == 0);
    bed_run(&b, SECOND_NS);
    for (int i = 0; i < 400; i++) {
        b.gateway.deaf[0] = i % 2;
        bed_put(&b, &b.client, 100);
        bed_run(&b, 10 * MS);
    }
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes == 0 && bed_seen(&b.client, JV_EVENT_PMTU, -1) == 0);
    CHECK(bed_stats(&b, &b.client, 1).measured.loss_ppm > 300000);
    bed_close(&b);
}

/* A path that dies meanwhile is not called narrow. */
static void the_dead_teach_nothing(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, SECOND_NS);
    b.gateway.deaf[0] = true;
    CHECK(jv_engine_bind(b.client.engine, b.client.slot, 1, 1, b.now_ns) == 0);
    bed_run(&b, 10 * SECOND_NS);
    CHECK(bed_stats(&b, &b.client, 1).mtu_bytes == 0 && bed_seen(&b.client, JV_EVENT_PMTU, -1) == 0);
    bed_close(&b);
}

int main(void) {
    RUN(what_passes_is_found);
    RUN(larger_ones_are_told);
    RUN(traffic_asks_again);
    RUN(loss_asks_and_is_forgotten);
    RUN(a_lossy_path_is_not_narrow);
    RUN(the_dead_teach_nothing);
    return failures();
}
