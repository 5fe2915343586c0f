/* SPDX-License-Identifier: Apache-2.0 */
/* Two engines with two native workers each, one session between them, traffic both ways through all queues,
 * while this thread does all that Python would. Which worker receives a datagram is decided by its counter,
 * so the packets of one session meet in both. Runs under ASan+UBSan, and under TSan; with PLANT_RACE one
 * access is made without the lock, which TSan must find.
 *
 *     2 queues <-> [a: workers 0, 1] -- UDP 127.0.0.1 -- [b: workers 0, 1] <-> 2 queues
 */
#include "engine_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define SECOND_NS UINT64_C(1000000000)
#define MTU       1420
#define WORKERS   2
#define PACKETS   4000u /* by each of the four senders */
#define WINDOW    48u   /* of one sender on their way */
#define PATIENCE  60    /* seconds without an end */

struct end {
    struct jv_engine *engine;
    int udp[WORKERS], device[WORKERS], inner[WORKERS];
    int socket_id;
    uint32_t slot, index;
    struct jv_endpoint at;
};

static struct end a, b;
static const uint8_t keys_of[4][32] = {{1}, {2}, {3}, {4}};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* The low bit of the counter chooses the socket. */
static void spread(int fd) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, WORKERS - 1),
        BPF_STMT(BPF_RET | BPF_A, 0),
    };
    const struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) == 0);
}

static void open_sockets(int udp[WORKERS], struct jv_endpoint *found) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int on = 1, size = 4 << 20;
    for (int i = 0; i < WORKERS; i++) {
        udp[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(udp[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        CHECK(setsockopt(udp[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0);
        CHECK(bind(udp[i], (struct sockaddr *)&at, sizeof at) == 0);
        CHECK(getsockname(udp[i], (struct sockaddr *)&at, &len) == 0);
    }
    spread(udp[0]);
    CHECK(jv_endpoint_set(found, AF_INET, (uint8_t *)&at.sin_addr, ntohs(at.sin_port), 0) == 0);
}

static void open_end(struct end *x, bool client) {
    const struct jv_engine_config config = {
        .sessions = 64,
        .prefixes = 64,
        .window_bits = 2048,
        .index_seed = {client ? 9 : 8},
        .limits = {120 * SECOND_NS, 180 * SECOND_NS, 10 * SECOND_NS, 5 * SECOND_NS, UINT64_C(1) << 60,
                   UINT64_MAX - 8192},
        .client = client,
        .udp_without = JV_UDP_GSO, /* a train would choose one socket for all its datagrams */
        .workers = WORKERS,
    };
    const struct jv_prefix route = {.family = 4, .len = 32, .addr = {10, 0, 0, client ? 2 : 1}};
    const int size = 4 << 20;
    memset(x, 0, sizeof *x);
    x->engine = jv_engine_new(&config, now_ns());
    CHECK(x->engine != NULL);
    open_sockets(x->udp, &x->at);
    x->socket_id = jv_engine_add_sockets(x->engine, x->udp);
    CHECK(x->socket_id == 0);
    for (int i = 0; i < WORKERS; i++) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        x->device[i] = pair[0];
        x->inner[i] = pair[1];
    }
    CHECK(jv_engine_set_queues(x->engine, x->device, MTU, 0) == 0);
    CHECK(jv_engine_add_session(x->engine, &x->slot) == 0);
    CHECK(jv_engine_add_route(x->engine, &route, x->slot) == 0);
}

static void close_end(struct end *x) {
    jv_engine_free(x->engine);
    for (int i = 0; i < WORKERS; i++) {
        close(x->udp[i]);
        close(x->device[i]);
        close(x->inner[i]);
    }
}

/* A handshake: b answers it, so its keypair waits for a's first packet. */
static void rekey(void) {
    struct jv_keys keys = {
        .send = keys_of[1], .recv = keys_of[0], .control_send = keys_of[3], .control_recv = keys_of[2]};
    CHECK(jv_engine_new_index(a.engine, a.slot, &a.index) == 0);
    CHECK(jv_engine_new_index(b.engine, b.slot, &b.index) == 0);
    keys.local_index = b.index;
    keys.remote_index = a.index;
    CHECK(jv_engine_install(b.engine, b.slot, &keys, now_ns()) == 0);
    keys = (struct jv_keys){
        .send = keys_of[0], .recv = keys_of[1], .control_send = keys_of[2], .control_recv = keys_of[3]};
    keys.local_index = a.index;
    keys.remote_index = b.index;
    keys.initiator = true;
    CHECK(jv_engine_install(a.engine, a.slot, &keys, now_ns()) == 0);
}

static void open_both(void) {
    open_end(&a, true);
    open_end(&b, false);
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &a : &b;
        const struct jv_endpoint *to = i ? &b.at : &a.at;
        CHECK(jv_engine_open_paths(x->engine, x->slot, now_ns()) == 0);
        CHECK(jv_engine_set_path(x->engine, x->slot, 1, to, now_ns()) == 0);
        CHECK(jv_engine_bind(x->engine, x->slot, 1, 1, now_ns()) == 0);
        CHECK(jv_engine_set_liveness(x->engine, x->slot, SECOND_NS / 100, 0, now_ns()) == 0);
    }
    rekey();
    CHECK(jv_engine_start_workers(a.engine) == 0 && jv_engine_start_workers(b.engine) == 0);
}

/* --- traffic: a numbered packet is answered for by the flow it belongs to
 * ---------------------------------------------- */

struct flow {
    struct end *from, *to;
    int queue;
    atomic_uint sent, arrived, twice;
    uint8_t seen[PACKETS];
};

static struct flow flows[4];
static atomic_bool over;

static void nap(void) {
    const struct timespec pause = {.tv_nsec = 100000};
    nanosleep(&pause, NULL);
}

static size_t packet_of(uint8_t *p, const struct flow *f, uint32_t number) {
    const size_t total = 28 + number % 1200;
    memset(p, 0, total);
    p[0] = 0x45;
    p[6] = 0x40;
    jv_put_be16(p + 2, (uint16_t)total);
    p[8] = 64;
    p[9] = 253;
    p[12] = p[16] = 10;
    p[15] = f->from == &a ? 1 : 2;
    p[19] = f->from == &a ? 2 : 1;
    jv_put_le32(p + 20, (uint32_t)(f - flows));
    jv_put_le32(p + 24, number);
    return total;
}

static void *send_all(void *flow) {
    struct flow *f = flow;
    uint8_t p[2048];
    for (uint32_t number = 0; number < PACKETS && !atomic_load(&over);) {
        const size_t n = packet_of(p, f, number);
        if (number - atomic_load(&f->arrived) >= WINDOW || send(f->from->inner[f->queue], p, n, 0) < 0) {
            nap();
            continue;
        }
        atomic_store(&f->sent, ++number);
    }
    return NULL;
}

static void arrived(const uint8_t *p, ssize_t n) {
    const uint32_t flow = n >= 28 ? jv_get_le32(p + 20) : 99, number = n >= 28 ? jv_get_le32(p + 24) : 0;
    if (flow >= 4 || number >= PACKETS || (size_t)n != 28 + number % 1200)
        return;
    struct flow *f = &flows[flow];
    if (__atomic_exchange_n(&f->seen[number], 1, __ATOMIC_RELAXED))
        atomic_fetch_add(&f->twice, 1);
    else
        atomic_fetch_add(&f->arrived, 1);
}

static void *take_all(void *end) {
    struct end *x = end;
    uint8_t p[2048];
    while (!atomic_load(&over)) {
        bool any = false;
        for (int i = 0; i < WORKERS; i++) {
            const ssize_t n = recv(x->inner[i], p, sizeof p, 0);
            if (n > 0)
                arrived(p, n);
            any |= n > 0;
        }
        if (!any)
            nap();
    }
    return NULL;
}

static uint32_t all_arrived(void) {
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum += atomic_load(&flows[i].arrived);
    return sum;
}

/* --- meanwhile
 * -------------------------------------------------------------------------------------------------- */

static unsigned events_of(struct end *x) {
    struct pollfd ready = {.fd = jv_engine_event_fd(x->engine), .events = POLLIN};
    unsigned n = 0;
    if (poll(&ready, 1, 0) == 1)
        jv_engine_clear_event(x->engine);
    for (; jv_engine_peek(x->engine); n++)
        jv_engine_consume(x->engine);
    return n;
}

static void look(struct end *x) {
    struct jv_session_stats stats;
    struct jv_path_stats path;
    struct jv_worker_stats worker;
    CHECK(jv_engine_stats(x->engine, x->slot, &stats) == 0);
    CHECK(jv_engine_path_stats(x->engine, x->slot, 1, now_ns(), &path) == 0);
    for (unsigned i = 0; i < WORKERS; i++)
        CHECK(jv_engine_worker_stats(x->engine, i, &worker) == 0);
    CHECK(jv_engine_counters(x->engine)->n[JV_CTR_DROP_AUTH] == 0);
    (void)jv_engine_next_deadline(x->engine);
}

/* Another peer, another socket and another path come and go. */
static void come_and_go(struct end *x) {
    const struct jv_prefix route = {.family = 4, .len = 24, .addr = {10, 1, 2, 0}};
    struct jv_endpoint at;
    int udp[WORKERS];
    uint32_t slot;
    CHECK(jv_engine_add_session(x->engine, &slot) == 0);
    CHECK(jv_engine_add_route(x->engine, &route, slot) == 0);
    open_sockets(udp, &at);
    const int id = jv_engine_add_sockets(x->engine, udp);
    CHECK(id > 0);
    CHECK(jv_endpoint_set(&at, AF_INET, (const uint8_t[]){127, 0, 0, 1}, 9, 0) == 0); /* nobody's */
    at.socket = (uint16_t)id;
    CHECK(jv_engine_set_path(x->engine, x->slot, 2, &at, now_ns()) == 0);
    nap();
    CHECK(jv_engine_drop_path(x->engine, x->slot, 2) == 0);
    CHECK(jv_engine_remove_socket(x->engine, id) == 0);
    for (int i = 0; i < WORKERS; i++)
        close(udp[i]);
    CHECK(jv_engine_remove_route(x->engine, &route, slot) == 0);
    CHECK(jv_engine_remove_session(x->engine, slot) == 0);
}

static void meanwhile(uint32_t round) {
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &a : &b;
        look(x);
        (void)events_of(x);
        if (round % 8 == 0)
            come_and_go(x);
#ifdef PLANT_RACE
        x->engine->counters.n[JV_CTR_RX_DATA]++;
#endif
    }
}

static void packets_cross_all_workers_while_python_works(void) {
    const uint32_t wanted = 4 * PACKETS;
    pthread_t senders[4], takers[2];
    uint32_t rekeyed_at = 0;
    const uint64_t until_ns = now_ns() + PATIENCE * SECOND_NS;
    open_both();
    for (int i = 0; i < 4; i++) {
        flows[i].from = i < 2 ? &a : &b;
        flows[i].to = i < 2 ? &b : &a;
        flows[i].queue = i % 2;
        CHECK(pthread_create(&senders[i], NULL, send_all, &flows[i]) == 0);
    }
    CHECK(pthread_create(&takers[0], NULL, take_all, &a) == 0 &&
          pthread_create(&takers[1], NULL, take_all, &b) == 0);
    for (uint32_t round = 0; all_arrived() < wanted && now_ns() < until_ns; round++) {
        meanwhile(round);
        if (all_arrived() - rekeyed_at >= wanted / 8) {
            rekeyed_at = all_arrived();
            rekey();
        }
        nap();
    }
    atomic_store(&over, true);
    for (int i = 0; i < 4; i++)
        pthread_join(senders[i], NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(takers[i], NULL);
    CHECK(all_arrived() == wanted);
    for (int i = 0; i < 4; i++)
        CHECK(atomic_load(&flows[i].twice) == 0);
}

static void every_worker_had_its_share(void) {
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &a : &b;
        struct jv_worker_stats worker;
        for (unsigned number = 0; number < WORKERS; number++) {
            CHECK(jv_engine_worker_stats(x->engine, number, &worker) == 0);
            CHECK(worker.rx_datagrams > PACKETS / 2 && worker.tx_datagrams > PACKETS / 2 &&
                  worker.cpu_ns > 0 && worker.wakeups > 0);
        }
        CHECK(jv_engine_worker_stats(x->engine, WORKERS, &worker) == -ENOENT);
        CHECK(jv_engine_counters(x->engine)->n[JV_CTR_RX_PROBES] > 0); /* the timers ran */
        CHECK(jv_engine_pump_tun(x->engine, now_ns()) == -EBUSY);
    }
}

static bool worker_failed(struct end *x, uint64_t number) {
    bool found = false;
    for (const struct jv_event *event; (event = jv_engine_peek(x->engine)) != NULL;) {
        found |= event->kind == JV_EVENT_WORKER_FAILED && event->value == number && event->reason != 0;
        jv_engine_consume(x->engine);
    }
    return found;
}

/* What cannot be read is told through the descriptor that Python waits for, and is not read again: the
 * writing end of a pipe, whose reader goes. */
static void a_lost_queue_is_told(void) {
    struct end x;
    int pipe_fds[2];
    bool told = false;
    open_end(&x, true);
    CHECK(pipe(pipe_fds) == 0);
    const int queues[WORKERS] = {x.device[0], pipe_fds[1]};
    CHECK(jv_engine_set_queues(x.engine, queues, MTU, 0) == 0);
    CHECK(jv_engine_start_workers(x.engine) == 0);
    struct pollfd ready = {.fd = jv_engine_event_fd(x.engine), .events = POLLIN};
    close(pipe_fds[0]);
    const uint64_t until_ns = now_ns() + PATIENCE * SECOND_NS;
    while (!told && now_ns() < until_ns && poll(&ready, 1, 1000) >= 0) {
        jv_engine_clear_event(x.engine);
        told = worker_failed(&x, 1);
    }
    CHECK(told && !worker_failed(&x, 1));
    close_end(&x);
    close(pipe_fds[1]);
}

static void stopping_twice_does_no_harm(void) {
    struct jv_worker_stats worker;
    jv_engine_stop_workers(a.engine);
    jv_engine_stop_workers(a.engine);
    CHECK(jv_engine_worker_stats(a.engine, 0, &worker) == 0 && worker.cpu_ns == 0 && worker.wakeups > 0);
    CHECK(jv_engine_start_workers(a.engine) == 0 && jv_engine_start_workers(a.engine) == -EINVAL);
    close_end(&a); /* while they run */
    close_end(&b);
}

int main(void) {
    RUN(packets_cross_all_workers_while_python_works);
    RUN(every_worker_had_its_share);
    RUN(a_lost_queue_is_told);
    RUN(stopping_twice_does_no_harm);
    return failures();
}
