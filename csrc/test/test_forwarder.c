/* SPDX-License-Identifier: Apache-2.0 */
/* The trap of copy-and-forward: somebody on the way sends a copy of every packet from his own address, and
 * his copies come first, so that the originals are replays. He sees ciphertext; he must neither starve the
 * path he copies, nor feed another, nor get an answer. */
#include "bed.h"

#define PROFILE_NS (300 * MS)
#define HELD_MAX   64

struct held {
    uint8_t data[2048];
    ssize_t bytes;
};

static int stranger(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

static void deliver(int fd, const struct end *to, int path, const struct held *held) {
    const struct sockaddr_in *at = &to->at[path].remote.v4;
    CHECK(sendto(fd, held->data, (size_t)held->bytes, 0, (const struct sockaddr *)at, sizeof *at) ==
          held->bytes);
}

/* What lies before `to` on `path` comes again from `thief` first, at `thief_path`, and then as it was. */
static void forward(const struct bed *b, const struct end *to, int path, int thief, int thief_path,
                    bool originals) {
    static struct held held[HELD_MAX];
    const struct end *from = to == &b->client ? &b->gateway : &b->client;
    int n = 0;
    while (n < HELD_MAX && (held[n].bytes = recv(to->udp[path], held[n].data, sizeof held[n].data, 0)) > 0)
        n++;
    for (int i = 0; i < n; i++)
        deliver(thief, to, thief_path, &held[i]);
    for (int i = 0; originals && i < n; i++)
        deliver(from->udp[path], to, path, &held[i]);
}

static int earned_by(int thief) {
    uint8_t p[2048];
    int n = 0;
    while (recv(thief, p, sizeof p, 0) > 0)
        n++;
    return n;
}

static void check_alive(const struct bed *b, const struct end *x) {
    CHECK(bed_seen(x, JV_EVENT_MISSED, -1) == 0 && bed_seen(x, JV_EVENT_SUSPECTED, -1) == 0);
    for (uint8_t path = 1; path <= PATHS; path++) {
        const struct jv_path_stats stats = bed_stats(b, x, path);
        CHECK(stats.misses == 0 && stats.streak >= 30 && stats.measured.loss_ppm == 0);
        CHECK(stats.measured.srtt_us >= 4000 && stats.measured.srtt_us <= 12000);
        CHECK(b->now_ns - stats.answered_ns <= PROFILE_NS + 20 * MS);
    }
}

static void he_wins_every_race(bool of_client, bool of_gateway) {
    struct bed b;
    const int thief = stranger();
    int up = 0, down = 0;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    for (int i = 0; i < 2400; i++) {
        if (i % 4 == 0 && i < 1200) {
            bed_put(&b, &b.client, 100);
            bed_put(&b, &b.gateway, 100);
        }
        if (of_client)
            forward(&b, &b.gateway, 0, thief, 0, true);
        if (of_gateway)
            forward(&b, &b.client, 0, thief, 0, true);
        bed_step(&b, 5 * MS);
        up += bed_take(&b.gateway);
        down += bed_take(&b.client);
    }
    check_alive(&b, &b.client);
    check_alive(&b, &b.gateway);
    CHECK(up == 300 && down == 300);
    CHECK(earned_by(thief) == 0);
    CHECK(!of_client || bed_seen(&b.gateway, JV_EVENT_NOTICE, 1) > 0);
    CHECK(bed_stats(&b, &b.gateway, 1).bound && bed_seen(&b.gateway, JV_EVENT_NOTICE, 2) == 0);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_CONTROL_PATH) == 0);
    CHECK(bed_count(&b.client, JV_CTR_DROP_CONTROL_PATH) == 0);
    close(thief);
    bed_close(&b);
}

static void copy_and_forward_at_the_gateway_starves_nothing(void) {
    he_wins_every_race(true, false);
}

static void copy_and_forward_at_the_client_starves_nothing(void) {
    he_wins_every_race(false, true);
}

static void copy_and_forward_at_both_starves_nothing(void) {
    he_wins_every_race(true, true);
}

/* Path 1 is dead both ways; copies of path 2's packets come from path 1's very addresses. */
static void copies_of_another_path_feed_no_dead_one(bool at_gateway) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    bed_run(&b, 2 * SECOND_NS);
    struct end *x = at_gateway ? &b.gateway : &b.client;
    x->events = 0;
    for (int i = 0; i < 600; i++) {
        bed_lose(b.gateway.udp[0]);
        bed_lose(b.client.udp[0]);
        forward(&b, x, 1, bed_other(&b, x)->udp[0], 0, true);
        bed_step(&b, 5 * MS);
    }
    CHECK(bed_stats(&b, x, 1).misses >= 3 && bed_seen(x, JV_EVENT_MISSED, 1) >= 3);
    CHECK(bed_stats(&b, x, 2).misses == 0 && bed_seen(x, JV_EVENT_MISSED, 2) == 0);
    CHECK(bed_stats(&b, x, 2).streak >= 15);
    bed_close(&b);
}

static void copies_feed_no_dead_path_at_the_gateway(void) {
    copies_of_another_path_feed_no_dead_one(true);
}

static void copies_feed_no_dead_path_at_the_client(void) {
    copies_of_another_path_feed_no_dead_one(false);
}

/* A path that moved: what came from the new address while it was unproven is no loss. */
static void a_rebind_is_no_loss(void) {
    struct bed b;
    bed_open(&b);
    bed_liveness(&b, PROFILE_NS);
    const int mapped = stranger();
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    int up = 0;
    CHECK(getsockname(mapped, (struct sockaddr *)&at, &len) == 0);
    bed_run(&b, 2 * SECOND_NS);
    for (int i = 0; i < 400; i++) {
        bed_put(&b, &b.client, 100);
        forward(&b, &b.gateway, 0, mapped, 0, false); /* all of it by the new address */
        if (i == 100) {
            struct jv_endpoint to = b.gateway.from[0];
            to.remote.v4 = at;
            CHECK(jv_engine_set_path(b.gateway.engine, b.gateway.slot, 1, &to, b.now_ns) == 0);
        }
        if (i == 99)
            CHECK(bed_stats(&b, &b.gateway, 1).rx_packets < 60); /* data names no path */
        bed_step(&b, 5 * MS);
        up += bed_take(&b.gateway);
    }
    CHECK(up >= 398);
    CHECK(bed_stats(&b, &b.gateway, 1).rx_packets >= 400);
    CHECK(earned_by(mapped) > 5); /* probes and answers go to the proven address, which is his */
    close(mapped);
    bed_close(&b);
}

int main(void) {
    RUN(copy_and_forward_at_the_gateway_starves_nothing);
    RUN(copy_and_forward_at_the_client_starves_nothing);
    RUN(copy_and_forward_at_both_starves_nothing);
    RUN(copies_feed_no_dead_path_at_the_gateway);
    RUN(copies_feed_no_dead_path_at_the_client);
    RUN(a_rebind_is_no_loss);
    return failures();
}
