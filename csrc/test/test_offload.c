/* SPDX-License-Identifier: Apache-2.0 */
/* Random traffic through split, seal, two sockets, open and coalesce: what leaves the tunnel, taken apart
 * again, is for every flow the packets that its host meant, byte for byte and in order. With every offload
 * the kernel may lack, at either end.
 *
 *     super-packets -> tun a <-> [engine a] -- UDP 127.0.0.1 -- [engine b] <-> tun b -> super-packets
 *     10.0.0.1, fd00::1                                                                10.0.0.2, fd00::2
 */
#include "jv/binding.h"
#include "jv/burst.h"
#include "jv/engine.h"
#include "jv/split.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"
#include "engine_internal.h"
#include "inner.h"

#define SECOND_NS UINT64_C(1000000000)
#define MTU       1420
#define TSO       (JV_TUN_VNET | JV_TUN_TSO4 | JV_TUN_TSO6)
#define ALL       (TSO | JV_TUN_USO4 | JV_TUN_USO6)
#define FLOWS     10
#define WAITING   512

static const uint8_t key_ab[32] = {1}, key_ba[32] = {2};
static const uint64_t now_ns = 1000 * SECOND_NS;
static uint8_t payload[65536];

struct end {
    struct jv_engine *engine;
    int udp, device, inner, socket_id;
    unsigned features;
    uint32_t slot, index;
    struct jv_endpoint at;
};

/* What a flow still has to deliver, in order. */
struct flow {
    struct inner next;
    struct {
        uint8_t bytes[1600];
        size_t n;
    } waiting[WAITING];
    unsigned sent, arrived;
};

static struct flow flows[FLOWS];
static int wrong;

static void open_end(struct end *x, unsigned features, unsigned udp_without) {
    const struct jv_engine_config config = {
        .sessions = 8,
        .prefixes = 16,
        .window_bits = 2048,
        .index_seed = {9},
        .limits = {120 * SECOND_NS, 180 * SECOND_NS, 10 * SECOND_NS, 5 * SECOND_NS, UINT64_C(1) << 60,
                   UINT64_MAX - 8192},
        .udp_without = udp_without,
    };
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int pair[2], size = 4 << 20;
    x->features = features;
    x->engine = jv_engine_new(&config, now_ns);
    CHECK(x->engine != NULL);
    x->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    setsockopt(x->udp, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    CHECK(bind(x->udp, (struct sockaddr *)&at, sizeof at) == 0);
    CHECK(getsockname(x->udp, (struct sockaddr *)&at, &len) == 0);
    x->socket_id = jv_engine_add_socket(x->engine, x->udp);
    CHECK(jv_endpoint_set(&x->at, AF_INET, (uint8_t *)&at.sin_addr, ntohs(at.sin_port), 0) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
    for (int i = 0; i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    x->device = pair[0];
    x->inner = pair[1];
    CHECK(jv_engine_set_tun(x->engine, x->device, MTU, features) == 0);
    CHECK(jv_engine_add_session(x->engine, &x->slot) == 0);
    CHECK(jv_engine_new_index(x->engine, x->slot, &x->index) == 0);
}

static void route(struct end *x, uint8_t last) {
    const struct jv_prefix four = {.family = 4, .len = 32, .addr = {10, 0, 0, last}};
    const struct jv_prefix six = {.family = 6, .len = 128, .addr = {0xfd, [15] = last}};
    CHECK(jv_engine_add_route(x->engine, &four, x->slot) == 0);
    CHECK(jv_engine_add_route(x->engine, &six, x->slot) == 0);
}

static void install(struct end *a, struct end *b) {
    const struct jv_keys of_b = {
        .send = key_ba, .recv = key_ab, .local_index = b->index, .remote_index = a->index};
    const struct jv_keys of_a = {
        .send = key_ab, .recv = key_ba, .local_index = a->index, .remote_index = b->index, .initiator = true};
    CHECK(jv_engine_install(b->engine, b->slot, &of_b, now_ns) == 0);
    CHECK(jv_engine_install(a->engine, a->slot, &of_a, now_ns) == 0);
}

static void open_pair(struct end *a, struct end *b, unsigned tun_a, unsigned tun_b, unsigned udp_without) {
    open_end(a, tun_a, udp_without);
    open_end(b, tun_b, udp_without);
    route(a, 2);
    route(b, 1);
    CHECK(jv_engine_set_endpoint(a->engine, a->slot, &b->at, now_ns) == 0);
    CHECK(jv_engine_set_endpoint(b->engine, b->slot, &a->at, now_ns) == 0);
    memset(flows, 0, sizeof flows);
    wrong = 0;
    for (uint8_t i = 0; i < FLOWS; i++)
        flows[i].next = (struct inner){.version = i & 1 ? 6 : 4,
                                       .proto = i & 2 ? INNER_UDP : INNER_TCP,
                                       .from = 1,
                                       .to = 2,
                                       .ttl = 64,
                                       .df = i & 4,
                                       .sport = (uint16_t)(1000 + i),
                                       .dport = 80,
                                       .flags = INNER_ACK,
                                       .options = i & 2 ? 0 : 3};
}

static void close_pair(struct end *a, struct end *b) {
    struct end *const ends[] = {a, b};
    for (int i = 0; i < 2; i++) {
        jv_engine_free(ends[i]->engine);
        close(ends[i]->udp);
        close(ends[i]->device);
        close(ends[i]->inner);
    }
}

/* --- what the host of `a` sends --- */

static void put(struct end *x, const struct jv_vnet *vnet, uint8_t *packet, size_t n) {
    const bool header = x->features & JV_TUN_VNET;
    struct iovec iov[2] = {{(void *)(uintptr_t)vnet, sizeof *vnet}, {packet, n}};
    CHECK(writev(x->inner, iov + !header, 1 + header) == (ssize_t)(n + (header ? sizeof *vnet : 0)));
}

static void expect(struct flow *f, const struct inner *one) {
    CHECK(f->sent < WAITING);
    f->waiting[f->sent].n = inner_make(one, f->waiting[f->sent].bytes, false);
    f->sent++;
}

static bool may_be_super(const struct end *x, const struct inner *f) {
    if (f->proto == INNER_TCP)
        return x->features & (f->version == 4 ? JV_TUN_TSO4 : JV_TUN_TSO6);
    return x->features & (f->version == 4 ? JV_TUN_USO4 : JV_TUN_USO6);
}

static void advance(struct flow *f) {
    f->next.seq += (uint32_t)f->next.payload_bytes;
    f->next.id = (uint16_t)(f->next.id + 1);
    f->next.flags = INNER_ACK;
    f->next.ip_options = 0;
    f->next.fragment = 0;
}

static void send_super(struct end *x, struct flow *f, uint64_t r) {
    static uint8_t packet[65536];
    const uint16_t gso_size = (uint16_t)(1 + (r >> 8) % (MTU - inner_header_bytes(&f->next)));
    const struct jv_vnet vnet = inner_vnet(&f->next, gso_size);
    const size_t most = (size_t)gso_size * (1 + (r >> 24) % 50), room = 65000;
    f->next.payload_bytes = (most < room ? most : room) - (r >> 32) % gso_size;
    f->next.flags |= r & 1 ? INNER_PSH : 0;
    for (uint32_t i = 0; i < inner_segments(&f->next, gso_size); i++) {
        const struct inner one = inner_segment(&f->next, gso_size, i);
        expect(f, &one);
    }
    put(x, &vnet, packet, inner_make(&f->next, packet, true));
    f->next.id = (uint16_t)(f->next.id + inner_segments(&f->next, gso_size) - 1);
}

/* Equal ones in a row, so that the other end has something to merge; or a fragment, options, a flag. */
static void send_single(struct end *x, struct flow *f, uint64_t r) {
    uint8_t packet[2048];
    const struct jv_vnet none = {.gso_type = JV_VNET_GSO_NONE};
    const bool odd = (r >> 8) % 8 == 0;
    f->next.payload_bytes = odd ? (r >> 16) % 1300 : 1200;
    if (odd && r & 0x1000000)
        f->next.flags = (uint8_t)(r >> 32);
    if (odd && r & 0x2000000)
        f->next.ip_options = 1;
    if (odd && r & 0x4000000 && f->next.version == 4)
        f->next.fragment = 0x2000;
    const bool partial = !odd && x->features & JV_TUN_VNET && r & 1;
    const struct jv_vnet vnet = partial ? inner_vnet(&f->next, 0) : none;
    expect(f, &f->next);
    put(x, &vnet, packet, inner_make(&f->next, packet, partial));
}

/* --- what the host of `b` gets --- */

static struct flow *flow_of(const uint8_t *p, size_t n) {
    const size_t at = p[0] >> 4 == 4 ? (p[0] & 0xf) * 4u : p[6] == 60 ? 48 : 40;
    const uint16_t port = at + 2 <= n ? jv_get_be16(p + at) : 0;
    return port >= 1000 && port < 1000 + FLOWS ? &flows[port - 1000] : NULL;
}

static void arrive(const uint8_t *p, size_t n) {
    struct flow *f = flow_of(p, n);
    if (!f || f->arrived == f->sent || f->waiting[f->arrived].n != n ||
        memcmp(f->waiting[f->arrived].bytes, p, n) != 0) {
        wrong++;
        return;
    }
    f->arrived++;
}

static void take(struct end *x) {
    static uint8_t packet[65600];
    const bool header = x->features & JV_TUN_VNET;
    struct jv_vnet vnet = {.gso_type = JV_VNET_GSO_NONE};
    struct iovec iov[2] = {{&vnet, sizeof vnet}, {packet, sizeof packet}};
    struct jv_split s;
    struct jv_ip ip;
    ssize_t n;
    while ((n = readv(x->inner, iov + !header, 1 + header)) > 0) {
        const size_t len = (size_t)n - (header ? sizeof vnet : 0);
        const uint8_t *segment;
        uint32_t bytes;
        CHECK(jv_ip_parse(packet, len, &ip) == JV_IP_OK && jv_split_begin(&s, &vnet, packet, &ip) == 0);
        const struct inner kind = {.version = ip.version, .proto = ip.proto};
        CHECK(s.segments == 1 || may_be_super(x, &kind));
        while ((segment = jv_split_next(&s, &bytes)) != NULL)
            arrive(segment, bytes);
    }
}

static void crank(struct end *a, struct end *b) {
    for (int i = 0; i < 12; i++) {
        CHECK(jv_engine_pump_tun(a->engine, now_ns) >= 0);
        CHECK(jv_engine_pump_udp(b->engine, b->socket_id, now_ns) >= 0);
        take(b);
    }
}

static uint64_t count(const struct end *x, enum jv_counter which) {
    return jv_engine_counters(x->engine)->n[which];
}

static void nothing_left(void) {
    for (int i = 0; i < FLOWS; i++) {
        CHECK(flows[i].arrived == flows[i].sent);
        flows[i].sent = flows[i].arrived = 0;
    }
    CHECK(wrong == 0);
}

static void some_traffic(struct end *a, struct end *b, uint64_t *seed, int rounds) {
    for (int round = 0; round < rounds; round++) {
        const unsigned focus = (unsigned)(next_random(seed) % FLOWS);
        for (int i = 0; i < 24; i++) {
            const uint64_t r = next_random(seed);
            struct flow *f = &flows[r % 4 ? focus : r / 4 % FLOWS];
            f->next.payload = payload + (r >> 40) % 500;
            if (i % 8 == 0 && may_be_super(a, &f->next))
                send_super(a, f, r);
            else
                send_single(a, f, r);
            advance(f);
        }
        crank(a, b);
        nothing_left();
    }
}

static void check_counters(const struct end *a, const struct end *b) {
    CHECK((count(a, JV_CTR_TUN_RX_SUPERS) > 0) == ((a->features & TSO) == TSO));
    CHECK((count(b, JV_CTR_TUN_TX_SUPERS) > 0) == ((b->features & TSO) == TSO));
    CHECK(count(a, JV_CTR_TUN_RX_PACKETS) == count(b, JV_CTR_TUN_TX_PACKETS));
    CHECK(count(a, JV_CTR_TUN_RX_BYTES) == count(b, JV_CTR_TUN_TX_BYTES));
    CHECK(count(a, JV_CTR_TX_DATAGRAMS) == count(b, JV_CTR_RX_DATAGRAMS));
    for (int i = JV_CTR_DROP_RX_TRUNCATED; i <= JV_CTR_DROP_TX_TRAIN; i++)
        CHECK(count(a, (enum jv_counter)i) == 0 && count(b, (enum jv_counter)i) == 0);
}

static const unsigned devices[] = {ALL, TSO, JV_TUN_VNET, 0};
static const unsigned sockets[] = {0, JV_UDP_GSO, JV_UDP_GRO, JV_UDP_GSO | JV_UDP_GRO};

static void whatever_the_kernel_lacks(void) {
    uint64_t seed = 7;
    for (size_t i = 0; i < JV_ARRAY_LEN(devices); i++)
        for (size_t k = 0; k < JV_ARRAY_LEN(devices); k++)
            for (size_t u = 0; u < JV_ARRAY_LEN(sockets); u++) {
                struct end a, b;
                open_pair(&a, &b, devices[i], devices[k], sockets[u]);
                install(&a, &b);
                some_traffic(&a, &b, &seed, 6);
                check_counters(&a, &b);
                /* Without UDP_SEGMENT every datagram is a message of its own, with it a train is one. */
                CHECK((jv_engine_udp_features(a.engine) & sockets[u]) == 0);
                close_pair(&a, &b);
            }
}

static void long_runs(void) {
    uint64_t seed = 8;
    struct end a, b;
    open_pair(&a, &b, ALL, ALL, 0);
    install(&a, &b);
    some_traffic(&a, &b, &seed, 300);
    check_counters(&a, &b);
    close_pair(&a, &b);
}

/* 47 full segments do not fit into one message of 64 KB: two trains, one call. */
static void a_super_packet_leaves_as_two_trains(void) {
    static uint8_t packet[65536];
    struct end a, b;
    open_pair(&a, &b, ALL, ALL, 0);
    install(&a, &b);
    struct flow *f = &flows[0];
    const uint16_t gso_size = MTU - 52;
    const struct jv_vnet vnet = inner_vnet(&f->next, gso_size);
    f->next.payload = payload;
    f->next.payload_bytes = 47u * gso_size;
    for (uint32_t i = 0; i < 47; i++) {
        const struct inner one = inner_segment(&f->next, gso_size, i);
        expect(f, &one);
    }
    CHECK(jv_engine_pump_tun(a.engine, now_ns) == 0);
    const uint64_t calls = count(&a, JV_CTR_TX_CALLS), datagrams = count(&a, JV_CTR_TX_DATAGRAMS);
    put(&a, &vnet, packet, inner_make(&f->next, packet, true));
    CHECK(jv_engine_pump_tun(a.engine, now_ns) == 1);
    CHECK(count(&a, JV_CTR_TX_CALLS) == calls + 1 && count(&a, JV_CTR_TX_DATAGRAMS) == datagrams + 47);
    crank(&a, &b);
    nothing_left();
    CHECK(count(&b, JV_CTR_TUN_TX_SUPERS) == 1);
    close_pair(&a, &b);
}

/* Without a key a super-packet waits as the packets it stands for, and they leave when the key comes. */
static void what_waits_is_split_first(void) {
    static uint8_t packet[65536];
    struct end a, b;
    open_pair(&a, &b, ALL, ALL, 0);
    struct flow *f = &flows[1];
    const struct jv_vnet vnet = inner_vnet(&f->next, 1000);
    f->next.payload = payload;
    f->next.payload_bytes = 40 * 1000;
    for (uint32_t i = 0; i < 40; i++) {
        const struct inner one = inner_segment(&f->next, 1000, i);
        expect(f, &one);
    }
    put(&a, &vnet, packet, inner_make(&f->next, packet, true));
    crank(&a, &b);
    struct jv_session_stats stats;
    CHECK(jv_engine_stats(a.engine, a.slot, &stats) == 0 && stats.staged == 40);
    install(&a, &b);
    crank(&a, &b);
    nothing_left();
    close_pair(&a, &b);
}

/* Reads one answer of engine `a` to its own host: what it quotes, or NULL. */
static const uint8_t *take_answer(struct end *a, uint8_t version, uint32_t *mtu_bytes) {
    static uint8_t reply[2048];
    const ssize_t n = recv(a->inner, reply, sizeof reply, 0);
    const uint8_t *ip = reply + sizeof(struct jv_vnet), *icmp = ip + (version == 4 ? 20 : 40);
    if (n < 100 || ip[0] >> 4 != version || memcmp(reply, &(struct jv_vnet){0}, sizeof(struct jv_vnet)) != 0)
        return NULL;
    *mtu_bytes = version == 4 ? jv_get_be16(icmp + 6) : jv_get_be32(icmp + 4);
    return (version == 4 ? icmp[0] == 3 && icmp[1] == 4 : icmp[0] == 2) ? icmp + 8 : NULL;
}

/* Segments that the path does not carry: one answer that quotes the first of them, as a router would. */
static void segments_beyond_the_path_mtu(void) {
    static uint8_t packet[65536];
    struct end a, b;
    open_pair(&a, &b, ALL, ALL, 0);
    install(&a, &b);
    CHECK(jv_engine_open_paths(a.engine, a.slot, now_ns) == 0);
    CHECK(jv_engine_set_path(a.engine, a.slot, 1, &b.at, now_ns) == 0);
    CHECK(jv_engine_bind(a.engine, a.slot, 1, 1, now_ns) == 0);
    jv_paths_by_id(jv_table_get(a.engine->table, a.slot)->paths, 1)->mtu_bytes = 1300; /* as if found */
    for (int i = 4; i <= 5; i++) { /* TCP with DF, over IPv4 and IPv6 */
        struct inner x = flows[i].next;
        const uint16_t fitting = (uint16_t)(1300 - inner_header_bytes(&x));
        struct jv_vnet vnet = inner_vnet(&x, fitting + 1);
        uint8_t expected[2048];
        uint32_t mtu_bytes = 0;
        x.payload = payload;
        x.payload_bytes = 10u * fitting;
        const struct inner quoted = inner_segment(&x, fitting + 1, 0);
        const uint64_t dropped = count(&a, JV_CTR_DROP_MTU), at_ns = now_ns + (uint64_t)i * SECOND_NS;
        put(&a, &vnet, packet, inner_make(&x, packet, true));
        CHECK(jv_engine_pump_tun(a.engine, at_ns) == 1);
        CHECK(count(&a, JV_CTR_DROP_MTU) == dropped + 10);
        const uint8_t *quote = take_answer(&a, x.version, &mtu_bytes);
        inner_make(&quoted, expected, false);
        CHECK(quote && mtu_bytes == 1300 && memcmp(quote, expected, 500) == 0);
        vnet = inner_vnet(&x, fitting);
        flows[i].next = x;
        for (uint32_t n = 0; n < 10; n++) {
            const struct inner one = inner_segment(&x, fitting, n);
            expect(&flows[i], &one);
        }
        put(&a, &vnet, packet, inner_make(&x, packet, true));
        crank(&a, &b);
        nothing_left();
    }
    close_pair(&a, &b);
}

/* A segment larger than the device's MTU, and garbage where the header is: counted, and nothing else. */
static void what_is_no_packet_is_dropped(void) {
    static uint8_t packet[65536];
    struct end a, b;
    uint64_t seed = 9;
    open_pair(&a, &b, ALL, ALL, 0);
    install(&a, &b);
    struct inner x = flows[0].next;
    struct jv_vnet vnet = inner_vnet(&x, MTU);
    x.payload = payload;
    x.payload_bytes = 5000;
    put(&a, &vnet, packet, inner_make(&x, packet, true));
    crank(&a, &b);
    CHECK(count(&a, JV_CTR_DROP_TUN_PACKET) == 1);
    for (int i = 0; i < 2000; i++) {
        for (size_t k = 0; k < 200; k++)
            packet[k] = (uint8_t)next_random(&seed);
        packet[0] = i % 2 ? 0x45 : 0x60;
        CHECK(send(a.inner, packet, next_random(&seed) % 200, 0) >= 0);
        CHECK(jv_engine_pump_tun(a.engine, now_ns) >= 0);
    }
    CHECK(count(&a, JV_CTR_DROP_TUN_PACKET) > 1500);
    some_traffic(&a, &b, &seed, 5);
    close_pair(&a, &b);
}

/* One wakeup takes eight super-packets, whatever waits. */
static void a_pump_is_bounded(void) {
    static uint8_t packet[65536];
    struct end a, b;
    open_pair(&a, &b, ALL, ALL, 0);
    install(&a, &b);
    struct inner x = flows[0].next;
    const struct jv_vnet vnet = inner_vnet(&x, 1368);
    x.payload = payload;
    x.payload_bytes = 64400;
    for (int i = 0; i < 12; i++)
        put(&a, &vnet, packet, inner_make(&x, packet, true));
    CHECK(jv_engine_pump_tun(a.engine, now_ns) == 8);
    CHECK(jv_engine_pump_tun(a.engine, now_ns) == 4);
    close_pair(&a, &b);
}

int main(void) {
    uint64_t state = 6;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)next_random(&state);
    RUN(whatever_the_kernel_lacks);
    RUN(long_runs);
    RUN(a_super_packet_leaves_as_two_trains);
    RUN(what_waits_is_split_first);
    RUN(segments_beyond_the_path_mtu);
    RUN(what_is_no_packet_is_dropped);
    RUN(a_pump_is_bounded);
    return failures();
}
