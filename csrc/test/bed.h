/* SPDX-License-Identifier: Apache-2.0 */
/* A client and a gateway with known keys over real loopback sockets, two paths, a clock of our own. A cut
 * direction of a path loses its datagrams between the sockets and the engine.
 *
 *     tun <-> [client] sockets 0, 1  == path 1, path 2 ==  sockets 0, 1 [gateway] <-> tun
 *     10.0.0.1                                                                        10.0.0.2
 */
#ifndef JV_TEST_BED_H
#define JV_TEST_BED_H

#include "jv/binding.h"
#include "jv/frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

#define SECOND_NS UINT64_C(1000000000)
#define MS        UINT64_C(1000000)
#define MTU       1420
#define PATHS     2
#define SEEN_MAX  4096

struct seen {
    struct jv_event event;
    struct jv_measured measured;
    uint8_t data[64];
};

struct end {
    struct jv_engine *engine;
    int udp[PATHS], device, inner;
    uint32_t slot, index;
    struct jv_endpoint at[PATHS];   /* where the other end finds us, by path */
    struct jv_endpoint from[PATHS]; /* the other end, through our socket of that path */
    bool deaf[PATHS];               /* what arrives on that path is lost */
    bool busy;                      /* nobody takes its events */
    struct seen seen[SEEN_MAX];
    int events;
};

struct bed {
    struct end client, gateway;
    uint64_t now_ns;
    uint64_t delay_ns; /* one way, 0 = none; kept by stepping, so it is at least a step */
};

static const uint8_t bed_keys[4][32] = {{1}, {2}, {3}, {4}};

static inline void bed_socket(struct end *x, int path) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int size = 4 << 20;
    x->udp[path] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    setsockopt(x->udp[path], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    CHECK(bind(x->udp[path], (struct sockaddr *)&at, sizeof at) == 0);
    CHECK(getsockname(x->udp[path], (struct sockaddr *)&at, &len) == 0);
    CHECK(jv_engine_add_socket(x->engine, x->udp[path]) == path);
    CHECK(jv_endpoint_set(&x->at[path], AF_INET, (uint8_t *)&at.sin_addr, ntohs(at.sin_port), 0) == 0);
}

static uint32_t bed_window_bits = 2048;

static inline void bed_end(struct end *x, bool client, uint64_t now_ns) {
    const struct jv_engine_config config = {
        .sessions = 8,
        .prefixes = 16,
        .window_bits = bed_window_bits,
        .index_seed = {9},
        .limits = {120 * SECOND_NS, 180 * SECOND_NS, 10 * SECOND_NS, 5 * SECOND_NS, UINT64_C(1) << 60,
                   UINT64_MAX - 8192},
        .client = client,
    };
    const struct jv_prefix route = {.family = 4, .len = 32, .addr = {10, 0, 0, client ? 2 : 1}};
    int pair[2];
    memset(x, 0, sizeof *x);
    x->engine = jv_engine_new(&config, now_ns);
    CHECK(x->engine != NULL);
    for (int path = 0; path < PATHS; path++)
        bed_socket(x, path);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    x->device = pair[0];
    x->inner = pair[1];
    CHECK(jv_engine_set_tun(x->engine, x->device, MTU, 0) == 0);
    CHECK(jv_engine_add_session(x->engine, &x->slot) == 0);
    CHECK(jv_engine_new_index(x->engine, x->slot, &x->index) == 0);
    CHECK(jv_engine_add_route(x->engine, &route, x->slot) == 0);
}

static inline struct jv_keys bed_keys_of(const struct end *x, const struct end *other, bool initiator) {
    return (struct jv_keys){
        .send = bed_keys[initiator ? 0 : 1],
        .recv = bed_keys[initiator ? 1 : 0],
        .control_send = bed_keys[initiator ? 2 : 3],
        .control_recv = bed_keys[initiator ? 3 : 2],
        .local_index = x->index,
        .remote_index = other->index,
        .initiator = initiator,
    };
}

static inline struct end *bed_other(struct bed *b, const struct end *x) {
    return x == &b->client ? &b->gateway : &b->client;
}

static inline void bed_keep(struct end *x) {
    const struct jv_event *event;
    while (!x->busy && (event = jv_engine_peek(x->engine)) != NULL) {
        if (x->events < SEEN_MAX) {
            struct seen *seen = &x->seen[x->events++];
            seen->event = *event;
            memcpy(seen->data, event->data, event->len < sizeof seen->data ? event->len : sizeof seen->data);
            if (event->kind == JV_EVENT_MEASURED)
                memcpy(&seen->measured, event->data, sizeof seen->measured);
        }
        jv_engine_consume(x->engine);
    }
}

static inline void bed_lose(int fd) {
    uint8_t lost[2048];
    while (recv(fd, lost, sizeof lost, MSG_TRUNC) >= 0) {
    }
}

/* A socket filter: what is left of a datagram that it cuts to nothing is lost. */
static inline void bed_narrow(struct end *x, int path, unsigned datagram_bytes) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, datagram_bytes + 8, 0, 1), /* the UDP header counts */
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    };
    const struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    CHECK(setsockopt(x->udp[path], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

static inline void bed_receive(struct bed *b, struct end *x) {
    for (int path = 0; path < PATHS; path++) {
        if (x->deaf[path])
            bed_lose(x->udp[path]);
        CHECK(jv_engine_pump_udp(x->engine, path, b->now_ns) >= 0);
    }
}

/* One step of time: what was sent in the step before arrives, then timers, then the devices. */
static inline void bed_step(struct bed *b, uint64_t step_ns) {
    b->now_ns += step_ns;
    bed_receive(b, &b->client);
    bed_receive(b, &b->gateway);
    jv_engine_tick(b->client.engine, b->now_ns);
    jv_engine_tick(b->gateway.engine, b->now_ns);
    CHECK(jv_engine_pump_tun(b->client.engine, b->now_ns) >= 0);
    CHECK(jv_engine_pump_tun(b->gateway.engine, b->now_ns) >= 0);
    bed_keep(&b->client);
    bed_keep(&b->gateway);
}

static inline void bed_run(struct bed *b, uint64_t for_ns) {
    const uint64_t end_ns = b->now_ns + for_ns, step_ns = b->delay_ns ? b->delay_ns : 5 * MS;
    while (b->now_ns < end_ns)
        bed_step(b, step_ns);
}

static inline void bed_settle(struct bed *b) {
    for (int i = 0; i < 8; i++)
        bed_step(b, 0);
}

/* Handshake done, both paths set at both ends, path 1 bound at epoch 1, no probes. */
static inline void bed_open(struct bed *b) {
    memset(b, 0, sizeof *b);
    b->now_ns = 1000 * SECOND_NS;
    b->delay_ns = 5 * MS;
    bed_end(&b->client, true, b->now_ns);
    bed_end(&b->gateway, false, b->now_ns);
    for (int path = 0; path < PATHS; path++) {
        b->client.from[path] = b->gateway.at[path];
        b->gateway.from[path] = b->client.at[path];
        b->client.from[path].socket = b->gateway.from[path].socket = (uint16_t)path;
    }
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &b->client : &b->gateway;
        const struct jv_keys keys = bed_keys_of(x, bed_other(b, x), i == 1);
        CHECK(jv_engine_open_paths(x->engine, x->slot, b->now_ns) == 0);
        for (int path = 0; path < PATHS; path++)
            CHECK(jv_engine_set_path(x->engine, x->slot, (uint8_t)(path + 1), &x->from[path], b->now_ns) ==
                  0);
        CHECK(jv_engine_bind(x->engine, x->slot, 1, 1, b->now_ns) == 0);
        CHECK(jv_engine_install(x->engine, x->slot, &keys, b->now_ns) == 0);
    }
    bed_settle(b);
    b->client.events = b->gateway.events = 0;
}

static inline void bed_close(struct bed *b) {
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &b->client : &b->gateway;
        jv_engine_free(x->engine);
        for (int path = 0; path < PATHS; path++)
            close(x->udp[path]);
        close(x->device);
        close(x->inner);
    }
}

static inline void bed_liveness(struct bed *b, uint64_t interval_ns) {
    CHECK(jv_engine_set_liveness(b->client.engine, b->client.slot, interval_ns, 0, b->now_ns) == 0);
    CHECK(jv_engine_set_liveness(b->gateway.engine, b->gateway.slot, interval_ns, 0, b->now_ns) == 0);
}

static inline size_t bed_packet(uint8_t *p, bool from_client, size_t payload, bool df) {
    const size_t total = 20 + payload;
    memset(p, 7, total);
    memset(p, 0, 20);
    p[0] = 0x45;
    p[6] = df ? 0x40 : 0;
    jv_put_be16(p + 2, (uint16_t)total);
    p[8] = 64;
    p[9] = 253;
    p[12] = p[16] = 10;
    p[15] = from_client ? 1 : 2;
    p[19] = from_client ? 2 : 1;
    return total;
}

static inline void bed_put(struct bed *b, struct end *x, size_t payload) {
    uint8_t p[2048];
    const size_t n = bed_packet(p, x == &b->client, payload, true);
    CHECK(send(x->inner, p, n, 0) == (ssize_t)n);
}

static inline int bed_take(struct end *x) {
    uint8_t p[2048];
    int n = 0;
    while (recv(x->inner, p, sizeof p, 0) > 0)
        n++;
    return n;
}

static inline uint64_t bed_count(const struct end *x, enum jv_counter which) {
    return jv_engine_counters(x->engine)->n[which];
}

static inline int bed_seen(const struct end *x, enum jv_event_kind kind, int path_id) {
    int n = 0;
    for (int i = 0; i < x->events; i++)
        n += x->seen[i].event.kind == kind && (path_id < 0 || x->seen[i].event.path_id == path_id);
    return n;
}

static inline const struct seen *bed_last(const struct end *x, enum jv_event_kind kind) {
    for (int i = x->events - 1; i >= 0; i--)
        if (x->seen[i].event.kind == kind)
            return &x->seen[i];
    return NULL;
}

static inline struct jv_path_stats bed_stats(const struct bed *b, const struct end *x, uint8_t path_id) {
    struct jv_path_stats stats = {.misses = 0};
    CHECK(jv_engine_path_stats(x->engine, x->slot, path_id, b->now_ns, &stats) == 0);
    return stats;
}

#endif
