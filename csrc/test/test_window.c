/* SPDX-License-Identifier: Apache-2.0 */
/* The replay window that grows: when it does, and that nothing is accepted twice over it. Datagrams of the
 * client are taken out between the sockets, so that they can be brought late, again, or never. */
#include "bed.h"

#define PAYLOAD        24 /* with the inner header 44 bytes, padded to 48 */
#define DATAGRAM_BYTES (16 + 48 + 16)
#define KEPT_MAX       60000

static uint8_t kept[KEPT_MAX][DATAGRAM_BYTES];
static int n_kept;

static uint32_t window(const struct bed *b) {
    struct jv_session_stats stats;
    CHECK(jv_engine_stats(b->gateway.engine, b->gateway.slot, &stats) == 0);
    return stats.window_packets;
}

/* Packets upstream at this rate, in steps of 2 ms; the gateway's inner end is emptied. */
static int flood(struct bed *b, unsigned per_s, uint64_t for_ns) {
    int arrived = 0;
    for (const uint64_t end_ns = b->now_ns + for_ns; b->now_ns < end_ns;) {
        for (unsigned i = 0; i < per_s / 500; i++)
            bed_put(b, &b->client, PAYLOAD);
        bed_step(b, 2 * MS);
        arrived += bed_take(&b->gateway);
    }
    return arrived;
}

/* What has come for the gateway on path 1, kept instead of handed to it. Trains are taken apart. */
static void keep(struct bed *b) {
    static uint8_t train[1 << 16];
    ssize_t n;
    CHECK(jv_engine_pump_tun(b->client.engine, b->now_ns) >= 0);
    while ((n = recv(b->gateway.udp[0], train, sizeof train, 0)) > 0)
        for (ssize_t at = 0; at < n; at += DATAGRAM_BYTES) {
            CHECK(n - at >= DATAGRAM_BYTES && n_kept < KEPT_MAX);
            memcpy(kept[n_kept++], train + at, DATAGRAM_BYTES);
        }
}

/* One kept datagram, from where it would have come from; how many inner packets came of it. */
static int bring(struct bed *b, int which) {
    const struct jv_endpoint *to = &b->gateway.at[0];
    CHECK(sendto(b->client.udp[0], kept[which], DATAGRAM_BYTES, 0, (const struct sockaddr *)&to->remote.v4,
                 sizeof to->remote.v4) == DATAGRAM_BYTES);
    CHECK(jv_engine_pump_udp(b->gateway.engine, 0, b->now_ns) >= 0);
    return bed_take(&b->gateway);
}

static void keep_packets(struct bed *b, int n) {
    while (n > 0) {
        const int some = n < 60 ? n : 60;
        for (int i = 0; i < some; i++)
            bed_put(b, &b->client, PAYLOAD);
        keep(b);
        n -= some;
    }
}

static void it_grows_for_speed_on_two_paths(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 300 * MS);
    CHECK(window(&b) == 2048 - 64);
    CHECK(flood(&b, 30000, SECOND_NS) > 29000);
    CHECK(window(&b) == JV_REPLAY_BITS_LARGE - 64);
    CHECK(bed_count(&b.gateway, JV_CTR_WINDOWS_GROWN) == 1);
    CHECK(flood(&b, 30000, SECOND_NS) > 29000);
    CHECK(bed_count(&b.gateway, JV_CTR_WINDOWS_GROWN) == 1);
    CHECK(bed_count(&b.client, JV_CTR_WINDOWS_GROWN) == 0);
    bed_close(&b);
}

static void it_stays_small_for_one_path(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 300 * MS);
    b.gateway.deaf[1] = b.client.deaf[1] = true;
    CHECK(flood(&b, 30000, 2 * SECOND_NS) > 59000);
    CHECK(window(&b) == 2048 - 64);
    bed_close(&b);
}

static void it_stays_small_below_that_speed(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 300 * MS);
    CHECK(flood(&b, 15000, 2 * SECOND_NS) > 29000);
    CHECK(window(&b) == 2048 - 64);
    bed_close(&b);
}

/* Before: every third of the last 1,900 is missing. The growth is the real one, and passes only the missing
 * ones, once. What had left the small window stays refused. */
static void nothing_is_accepted_twice_over_the_growth(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 300 * MS);
    (void)flood(&b, 30000, 200 * MS);
    n_kept = 0;
    keep_packets(&b, 6000);
    for (int i = 0; i < n_kept; i++)
        if (i % 3)
            CHECK(bring(&b, i) == 1);
    CHECK(window(&b) == 2048 - 64);
    for (int i = 0; i < 300 && window(&b) == 2048 - 64; i++)
        bed_step(&b, 1 * MS);
    CHECK(window(&b) == JV_REPLAY_BITS_LARGE - 64);
    for (int i = 0; i < n_kept; i++) {
        const bool missing = i % 3 == 0 && i >= 6000 - 1900, forgotten = i % 3 == 0 && i < 6000 - 2048;
        const int passed = bring(&b, i);
        if (missing || i % 3 || forgotten)
            CHECK(passed == missing);
    }
    for (int i = 0; i < n_kept; i++)
        CHECK(bring(&b, i) == 0);
    bed_close(&b);
}

/* After: 50,000 counters late is not too late, and once is enough. */
static void afterwards_late_packets_pass_once(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, 300 * MS);
    (void)flood(&b, 30000, SECOND_NS);
    CHECK(window(&b) == JV_REPLAY_BITS_LARGE - 64);
    n_kept = 0;
    keep_packets(&b, 50000);
    CHECK(bring(&b, n_kept - 1) == 1);
    for (int i = 0; i < n_kept - 1; i += 7)
        CHECK(bring(&b, i) == 1);
    for (int i = 0; i < n_kept; i += 7)
        CHECK(bring(&b, i) == 0);
    bed_close(&b);
}

/* A keypair that carries data has its whole window long before packets could be too late for the small one.
 */
static void the_whole_window_comes_with_traffic(void) {
    struct bed b;
    bed_window_bits = JV_REPLAY_BITS_DEFAULT;
    bed_open(&b);
    CHECK(window(&b) == JV_REPLAY_BITS_FIRST - 64);
    CHECK(flood(&b, 15000, 20 * MS) > 250);
    CHECK(window(&b) == JV_REPLAY_BITS_FIRST - 64);
    CHECK(flood(&b, 30000, 100 * MS) > 2900);
    CHECK(window(&b) == JV_REPLAY_BITS_DEFAULT - 64);
    n_kept = 0;
    keep_packets(&b, 8000);
    CHECK(bring(&b, n_kept - 1) == 1);
    for (int i = 0; i < n_kept - 1; i += 3)
        CHECK(bring(&b, i) == 1);
    for (int i = 0; i < n_kept; i += 3)
        CHECK(bring(&b, i) == 0);
    bed_close(&b);
    bed_window_bits = JV_REPLAY_BITS_SMALL;
}

int main(void) {
    RUN(the_whole_window_comes_with_traffic);
    RUN(it_grows_for_speed_on_two_paths);
    RUN(it_stays_small_for_one_path);
    RUN(it_stays_small_below_that_speed);
    RUN(nothing_is_accepted_twice_over_the_growth);
    RUN(afterwards_late_packets_pass_once);
    return failures();
}
