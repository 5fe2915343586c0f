/* SPDX-License-Identifier: Apache-2.0 */
/* Two engines with known keys over real loopback sockets; datagram socket pairs stand for the TUN devices.
 *
 *     tun a <-> [engine a] -- UDP 127.0.0.1 -- [engine b] <-> tun b
 *     10.0.0.1                                                 10.0.0.2
 */
#include "jv/engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

#define SECOND_NS UINT64_C(1000000000)
#define MTU       1420

static const uint8_t key_ab[32] = {1}, key_ba[32] = {2};

struct end {
    struct jv_engine *engine;
    int udp, device, inner, socket_id;
    uint32_t slot, index;
    struct jv_endpoint at;
};

static uint64_t now_ns = 1000 * SECOND_NS;

static void open_end(struct end *x) {
    struct jv_engine_config config = {
        .sessions = 8,
        .prefixes = 16,
        .window_bits = 2048,
        .index_seed = {9},
        .limits = {120 * SECOND_NS, 180 * SECOND_NS, 10 * SECOND_NS, 5 * SECOND_NS, UINT64_C(1) << 60,
                   UINT64_MAX - 8192},
    };
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int pair[2], size = 4 << 20;
    x->engine = jv_engine_new(&config, now_ns);
    CHECK(x->engine != NULL);
    x->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK(bind(x->udp, (struct sockaddr *)&at, sizeof at) == 0);
    CHECK(getsockname(x->udp, (struct sockaddr *)&at, &len) == 0);
    x->socket_id = jv_engine_add_socket(x->engine, x->udp);
    CHECK(x->socket_id == 0);
    CHECK(jv_endpoint_set(&x->at, AF_INET, (uint8_t *)&at.sin_addr, ntohs(at.sin_port), 0) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    x->device = pair[0];
    x->inner = pair[1];
    CHECK(jv_engine_set_tun(x->engine, x->device, MTU, 0) == 0);
    CHECK(jv_engine_add_session(x->engine, &x->slot) == 0);
    CHECK(jv_engine_new_index(x->engine, x->slot, &x->index) == 0);
}

static void close_end(struct end *x) {
    jv_engine_free(x->engine);
    close(x->udp);
    close(x->device);
    close(x->inner);
}

static void route(struct end *x, uint8_t last) {
    const struct jv_prefix prefix = {.family = 4, .len = 32, .addr = {10, 0, 0, last}};
    CHECK(jv_engine_add_route(x->engine, &prefix, x->slot) == 0);
}

/* a is the initiator; b learns where a is when the test says so. */
static void open_pair(struct end *a, struct end *b) {
    open_end(a);
    open_end(b);
    route(a, 2);
    route(b, 1);
    CHECK(jv_engine_set_endpoint(a->engine, a->slot, &b->at, now_ns) == 0);
    CHECK(jv_engine_set_endpoint(b->engine, b->slot, &a->at, now_ns) == 0);
    const struct jv_keys of_b = {
        .send = key_ba, .recv = key_ab, .local_index = b->index, .remote_index = a->index};
    const struct jv_keys of_a = {
        .send = key_ab, .recv = key_ba, .local_index = a->index, .remote_index = b->index, .initiator = true};
    CHECK(jv_engine_install(b->engine, b->slot, &of_b, now_ns) == 0);
    CHECK(jv_engine_install(a->engine, a->slot, &of_a, now_ns) == 0);
}

static size_t make_packet(uint8_t *p, uint8_t source, uint8_t destination, size_t payload, uint8_t fill) {
    const size_t total = 20 + payload;
    memset(p, fill, total);
    memset(p, 0, 20);
    p[0] = 0x45;
    jv_put_be16(p + 2, (uint16_t)total);
    p[8] = 64;
    p[9] = 253;
    p[12] = p[16] = 10;
    p[15] = source;
    p[19] = destination;
    return total;
}

static void put(struct end *x, uint8_t source, uint8_t destination, size_t payload, uint8_t fill) {
    uint8_t p[2048];
    const size_t n = make_packet(p, source, destination, payload, fill);
    CHECK(send(x->inner, p, n, 0) == (ssize_t)n);
}

static void crank(struct end *x) {
    CHECK(jv_engine_pump_udp(x->engine, x->socket_id, now_ns) >= 0);
    CHECK(jv_engine_pump_tun(x->engine, now_ns) >= 0);
    jv_engine_tick(x->engine, now_ns);
}

static void settle(struct end *a, struct end *b) {
    for (int i = 0; i < 8; i++) {
        crank(a);
        crank(b);
    }
}

static uint64_t count(const struct end *x, enum jv_counter which) {
    return jv_engine_counters(x->engine)->n[which];
}

static void the_keepalive_confirms_the_responders_key(void) {
    struct end a, b;
    struct jv_session_stats stats;
    open_pair(&a, &b);
    CHECK(jv_engine_stats(b.engine, b.slot, &stats) == 0 && stats.has_next && !stats.has_current);
    settle(&a, &b);
    CHECK(jv_engine_stats(b.engine, b.slot, &stats) == 0 && stats.has_current && !stats.has_next);
    const struct jv_event *event = jv_engine_peek(b.engine);
    CHECK(event && event->kind == JV_EVENT_CONFIRMED && event->slot == b.slot && event->value == b.index);
    jv_engine_consume(b.engine);
    CHECK(jv_engine_peek(b.engine) == NULL);
    close_end(&a);
    close_end(&b);
}

static void every_size_arrives_both_ways(void) {
    struct end a, b;
    uint8_t expected[2048], got[2048];
    open_pair(&a, &b);
    settle(&a, &b);
    for (size_t payload = 0; payload <= MTU - 20; payload += 7) {
        put(&a, 1, 2, payload, (uint8_t)payload);
        put(&b, 2, 1, payload, (uint8_t)~payload);
        settle(&a, &b);
        size_t n = make_packet(expected, 1, 2, payload, (uint8_t)payload);
        CHECK(recv(b.inner, got, sizeof got, 0) == (ssize_t)n && memcmp(got, expected, n) == 0);
        n = make_packet(expected, 2, 1, payload, (uint8_t)~payload);
        CHECK(recv(a.inner, got, sizeof got, 0) == (ssize_t)n && memcmp(got, expected, n) == 0);
    }
    CHECK(count(&b, JV_CTR_DROP_AUTH) == 0 && count(&b, JV_CTR_DROP_REPLAY_SEEN) == 0);
    close_end(&a);
    close_end(&b);
}

/* Full-size packets fill the arena to its last byte; ASan watches its end. */
static void a_full_burst_of_full_packets(void) {
    struct end a, b;
    uint8_t got[2048];
    int arrived = 0;
    open_pair(&a, &b);
    settle(&a, &b);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 5; i++)
            put(&a, 1, 2, i == 4 ? 3 : MTU - 20, (uint8_t)i);
        settle(&a, &b);
        while (recv(b.inner, got, sizeof got, 0) > 0)
            arrived++;
    }
    CHECK(arrived == 200);
    close_end(&a);
    close_end(&b);
}

static void only_the_allowed_source_gets_in(void) {
    struct end a, b;
    uint8_t got[64];
    open_pair(&a, &b);
    settle(&a, &b);
    put(&a, 77, 2, 10, 0);
    settle(&a, &b);
    CHECK(recv(b.inner, got, sizeof got, 0) < 0 && errno == EAGAIN);
    CHECK(count(&b, JV_CTR_DROP_SOURCE) == 1);
    close_end(&a);
    close_end(&b);
}

/* Field by field: what lies between them is nobody's. */
static bool same_stats(const struct jv_session_stats *a, const struct jv_session_stats *b) {
    return memcmp(a, b, offsetof(struct jv_session_stats, has_current)) == 0 &&
           a->has_current == b->has_current && a->has_next == b->has_next &&
           a->has_previous == b->has_previous && a->has_older == b->has_older && a->staged == b->staged &&
           a->suite == b->suite && a->window_packets == b->window_packets;
}

static void garbage_is_counted_and_nothing_else(void) {
    struct end a, b;
    uint8_t junk[512];
    uint64_t state = 1;
    struct jv_session_stats before, after;
    open_pair(&a, &b);
    settle(&a, &b);
    CHECK(jv_engine_stats(b.engine, b.slot, &before) == 0);
    for (int i = 0; i < 3000; i++) {
        const size_t n = next_random(&state) % sizeof junk;
        for (size_t k = 0; k < n; k++)
            junk[k] = (uint8_t)next_random(&state);
        if (n >= 8 && i % 2)
            memcpy(junk, "\4\0\0", 4); /* a transport message */
        if (n >= 8 && i % 4 == 1)
            jv_put_le32(junk + 4, b.index); /* to the right session */
        (void)sendto(a.udp, junk, n, 0, (struct sockaddr *)&b.at.remote.v4, sizeof b.at.remote.v4);
        CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 0);
    }
    CHECK(jv_engine_stats(b.engine, b.slot, &after) == 0);
    CHECK(same_stats(&before, &after));
    CHECK(count(&b, JV_CTR_DROP_AUTH) > 500 && count(&b, JV_CTR_DROP_TYPE) > 500);
    close_end(&a);
    close_end(&b);
}

static void send_from(const struct end *to, uint32_t ipv4, const uint8_t *data, size_t len) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(ipv4)};
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&from, sizeof from) == 0);
    CHECK(sendto(fd, data, len, 0, (const struct sockaddr *)&to->at.remote.v4, sizeof to->at.remote.v4) ==
          (ssize_t)len);
    close(fd);
}

static uint32_t read_all(const struct end *x) {
    uint32_t read = 0;
    for (; jv_engine_peek(x->engine); read++)
        jv_engine_consume(x->engine);
    return read;
}

/* Junk that looks like handshakes fills a ring; it must neither grow nor keep session events from Python. */
static void a_handshake_flood_leaves_room_for_events(void) {
    struct end a, b;
    const uint8_t junk[148] = {1};
    open_pair(&a, &b);
    for (uint32_t i = 0; i < 1500; i++) {
        now_ns += SECOND_NS / 1000;
        send_from(&b, 0x7f010001 + i, junk, sizeof junk);
        CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 0);
    }
    CHECK(count(&b, JV_CTR_DROP_RING_HANDSHAKE_FULL) > 400);
    CHECK(count(&b, JV_CTR_DROP_HANDSHAKE_RATE) == 0 && count(&b, JV_CTR_DROP_HANDSHAKE_SOURCE) == 0);
    settle(&a, &b);
    const struct jv_event *event = jv_engine_peek(b.engine);
    CHECK(event && event->kind == JV_EVENT_CONFIRMED);
    jv_engine_consume(b.engine);
    const uint32_t waiting = jv_engine_handshakes_waiting(b.engine);
    CHECK(read_all(&b) == waiting && jv_engine_handshakes_waiting(b.engine) == 0);
    close_end(&a);
    close_end(&b);
}

/* The same from one address is dropped before it fills anything, and whoever comes again is read first. */
static void a_flood_of_one_source_stays_below_its_share(void) {
    struct end a, b;
    uint8_t message[148] = {1};
    open_pair(&a, &b);
    for (uint32_t i = 0; i < 2; i++)
        send_from(&b, 0x7f020002, message, sizeof message);
    for (uint32_t i = 0; i < 100; i++)
        send_from(&b, 0x7f010001 + i, message, sizeof message);
    CHECK(jv_engine_send(b.engine, &a.at, message, sizeof message) == 0); /* known from now on */
    message[4] = 9;
    for (int i = 0; i < 1000; i++) {
        (void)sendto(a.udp, message, sizeof message, 0, (struct sockaddr *)&b.at.remote.v4,
                     sizeof b.at.remote.v4);
        CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 0);
    }
    CHECK(count(&b, JV_CTR_DROP_HANDSHAKE_SOURCE) > 700);
    settle(&a, &b);
    CHECK(jv_engine_peek(b.engine) != NULL); /* the session's own event */
    jv_engine_consume(b.engine);
    const struct jv_event *event = jv_engine_peek(b.engine);
    CHECK(event && event->kind == JV_EVENT_HANDSHAKE && event->data[4] == 9 && event->value == now_ns);
    close_end(&a);
    close_end(&b);
}

/* A host that has many sessions with one gateway is answered from one address. */
static void answers_of_one_source_are_not_counted_against_it(void) {
    struct end a, b;
    const uint8_t initiation[148] = {1};
    uint8_t response[92] = {2};
    open_pair(&a, &b);
    for (uint32_t i = 0; i < 250; i++) {
        now_ns += SECOND_NS / 1000; /* the rate of strangers is not what this is about */
        send_from(&b, 0x7f010001 + i, initiation, sizeof initiation);
        CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 0);
    }
    jv_put_le32(response + 8, b.index);
    for (int i = 0; i < 100; i++) {
        now_ns += SECOND_NS / 1000;
        send_from(&b, 0x7f020002, response, sizeof response);
        CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 0);
    }
    CHECK(count(&b, JV_CTR_DROP_HANDSHAKE_SOURCE) == 0 && jv_engine_handshakes_waiting(b.engine) == 350);
    close_end(&a);
    close_end(&b);
}

/* What claims to answer us but names none of our indices. */
static void an_answer_to_nothing_is_dropped(void) {
    struct end a, b;
    uint8_t response[92] = {2}, cookie[64] = {3};
    open_pair(&a, &b);
    const uint64_t before = count(&b, JV_CTR_DROP_INDEX);
    jv_put_le32(response + 8, b.index ^ 0x5555);
    jv_put_le32(cookie + 4, b.index ^ 0x3333);
    send_from(&b, 0x7f010001, response, sizeof response);
    send_from(&b, 0x7f010001, cookie, sizeof cookie);
    CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 2);
    CHECK(count(&b, JV_CTR_DROP_INDEX) == before + 2);
    jv_put_le32(response + 8, b.index);
    jv_put_le32(cookie + 4, b.index);
    send_from(&b, 0x7f010001, response, sizeof response);
    send_from(&b, 0x7f010001, cookie, sizeof cookie);
    CHECK(jv_engine_pump_udp(b.engine, b.socket_id, now_ns) >= 2);
    CHECK(jv_engine_handshakes_waiting(b.engine) == 2);
    close_end(&a);
    close_end(&b);
}

/* So many datagrams before each of so many pumps, that far apart; the pauses that were made. */
static uint64_t paced(struct end *a, struct end *b, uint64_t *at_ns, unsigned pumps, unsigned datagrams,
                      uint64_t apart_ns) {
    const uint64_t before = count(b, JV_CTR_RX_PAUSES);
    const uint8_t junk[32] = {4}; /* a keepalive of nobody */
    for (unsigned i = 0; i < pumps; i++, *at_ns += apart_ns) {
        for (unsigned k = 0; k < datagrams; k++)
            (void)sendto(a->udp, junk, sizeof junk, 0, (struct sockaddr *)&b->at.remote.v4,
                         sizeof b->at.remote.v4);
        CHECK(jv_engine_pump_udp(b->engine, b->socket_id, *at_ns) == (int)datagrams);
    }
    return count(b, JV_CTR_RX_PAUSES) - before;
}

static void only_datagrams_that_come_fast_and_singly_are_waited_for(void) {
    const uint64_t ms = SECOND_NS / 1000;
    struct end a, b;
    uint64_t at_ns = now_ns;
    open_pair(&a, &b);
    settle(&a, &b);
    CHECK(paced(&a, &b, &at_ns, 50, 1, ms / 5) == 0);
    CHECK(paced(&a, &b, &at_ns, 10, 1, ms / 20) == 0); /* a burst is not yet a stream */
    CHECK(paced(&a, &b, &at_ns, 100, 1, ms / 20) > 50);
    CHECK(paced(&a, &b, &at_ns, 30, 1, 3 * ms) <= 1);  /* the first does not know yet that it is over */
    CHECK(paced(&a, &b, &at_ns, 30, 64, ms / 2) <= 1); /* full calls need no company */
    close_end(&a);
    close_end(&b);
}

static void slots_and_sockets_that_do_not_exist(void) {
    struct end a;
    struct jv_endpoint to = {0};
    struct jv_session_stats stats;
    uint32_t slot;
    open_end(&a);
    CHECK(jv_engine_pump_udp(a.engine, 5, now_ns) == -ENOENT);
    CHECK(jv_engine_stats(a.engine, 7, &stats) == -ENOENT);
    CHECK(jv_engine_remove_session(a.engine, 7) == -ENOENT);
    CHECK(jv_engine_send(a.engine, &to, (const uint8_t *)"x", 0) == -EINVAL);
    CHECK(jv_engine_set_tun(a.engine, a.device, 100, 0) == -EINVAL);
    for (int i = 0; i < 7; i++)
        CHECK(jv_engine_add_session(a.engine, &slot) == 0);
    CHECK(jv_engine_add_session(a.engine, &slot) == -ENOSPC);
    close_end(&a);
}

static void a_removed_session_drops_what_waits(void) {
    struct end a;
    open_end(&a);
    route(&a, 2);
    put(&a, 1, 2, 100, 1);
    crank(&a);
    const struct jv_event *event = jv_engine_peek(a.engine);
    CHECK(event && event->kind == JV_EVENT_WANTED && event->reason == JV_WANTED_NO_KEY);
    CHECK(jv_engine_remove_session(a.engine, a.slot) == 0);
    CHECK(count(&a, JV_CTR_DROP_NO_KEY) == 1);
    CHECK(jv_engine_next_deadline(a.engine) == UINT64_MAX);
    close_end(&a);
}

int main(void) {
    RUN(the_keepalive_confirms_the_responders_key);
    RUN(every_size_arrives_both_ways);
    RUN(a_full_burst_of_full_packets);
    RUN(only_the_allowed_source_gets_in);
    RUN(garbage_is_counted_and_nothing_else);
    RUN(a_handshake_flood_leaves_room_for_events);
    RUN(a_flood_of_one_source_stays_below_its_share);
    RUN(answers_of_one_source_are_not_counted_against_it);
    RUN(an_answer_to_nothing_is_dropped);
    RUN(only_datagrams_that_come_fast_and_singly_are_waited_for);
    RUN(slots_and_sockets_that_do_not_exist);
    RUN(a_removed_session_drops_what_waits);
    return failures();
}
