/* SPDX-License-Identifier: Apache-2.0
 *
 * plane SESSIONS PACKETS: what one packet costs the data plane while so many sessions have keys, without
 * Python.
 *
 *     sealed here, by a key per session -- UDP 127.0.0.1 --> [engine] --> /dev/null
 *     a socket pair, inner packets                        --> [engine] -- UDP 127.0.0.1 --> a sink
 *
 * Sessions are drawn uniformly, so that rows, keys and windows lie in no cache once there are many. Only the
 * pumps are timed, in the thread's processor time, system calls included. One line of JSON.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "jv/aead.h"
#include "jv/engine.h"

#define BATCH    64u
#define INNER    64u
#define TAG      16u
#define HEADER   16u
#define SEALED   (HEADER + INNER + TAG)
#define MTU      1420u
#define NS_PER_S UINT64_C(1000000000)

struct plane {
    struct jv_engine *engine;
    uint32_t sessions;
    uint32_t *indices;
    uint64_t *counters; /* the next of each session, as its peer would count */
    int udp, sender, sink, socket_id;
    struct sockaddr_in at;
    uint64_t random;
};

static void must(bool ok, const char *what) {
    if (ok)
        return;
    perror(what);
    exit(1);
}

/* Times of the thread's own work, and of nothing that waits. */
static uint64_t spent_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* xorshift64* (Marsaglia 2003, Vigna 2016): the same sessions in every run. */
static uint32_t draw(struct plane *p) {
    p->random ^= p->random >> 12;
    p->random ^= p->random << 25;
    p->random ^= p->random >> 27;
    return (uint32_t)((p->random * UINT64_C(0x2545F4914F6CDD1D) >> 32) % p->sessions);
}

static void key_of(uint32_t session, bool inwards, uint8_t key[32]) {
    memset(key, 0, 32);
    memcpy(key, &session, sizeof session);
    key[31] = inwards ? 1 : 2;
}

static uint32_t address_of(uint32_t session) {
    return htonl(0x0a000000u + session);
}

static int open_udp(struct sockaddr_in *at) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 8 << 20;
    socklen_t len = sizeof *at;
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(fd >= 0 && bind(fd, (struct sockaddr *)at, sizeof *at) == 0, "UDP socket");
    must(getsockname(fd, (struct sockaddr *)at, &len) == 0, "UDP socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return fd;
}

static void add_session(struct plane *p, uint32_t session, const struct jv_endpoint *to, uint64_t now_ns) {
    struct jv_prefix prefix = {.family = 4, .len = 32};
    uint8_t in[32], out[32];
    uint32_t slot;
    const uint32_t address = address_of(session);
    memcpy(prefix.addr, &address, sizeof address);
    must(jv_engine_add_session(p->engine, &slot) == 0, "session");
    must(jv_engine_new_index(p->engine, slot, &p->indices[session]) == 0, "index");
    must(jv_engine_add_route(p->engine, &prefix, slot) == 0, "route");
    must(jv_engine_set_endpoint(p->engine, slot, to, now_ns) == 0, "endpoint");
    key_of(session, true, in);
    key_of(session, false, out);
    const struct jv_keys keys = {.send = out,
                                 .recv = in,
                                 .local_index = p->indices[session],
                                 .remote_index = session,
                                 .initiator = true};
    must(jv_engine_install(p->engine, slot, &keys, now_ns) == 0, "keys");
}

static void open_plane(struct plane *p, uint32_t sessions, uint64_t now_ns) {
    const struct jv_engine_config config = {
        .sessions = sessions,
        .prefixes = sessions,
        .window_bits = 8192,
        .index_seed = {7},
        .limits = {120 * NS_PER_S, 180 * NS_PER_S, 10 * NS_PER_S, 5 * NS_PER_S, UINT64_C(1) << 60,
                   UINT64_MAX - 8192},
    };
    struct sockaddr_in sink, own;
    struct jv_endpoint to;
    *p = (struct plane){.sessions = sessions, .random = UINT64_C(0x9E3779B97F4A7C15)};
    p->indices = calloc(sessions, sizeof *p->indices);
    p->counters = calloc(sessions, sizeof *p->counters);
    p->engine = jv_engine_new(&config, now_ns);
    must(p->indices && p->counters && p->engine, "memory");
    p->udp = open_udp(&p->at);
    p->sink = open_udp(&sink);
    p->sender = open_udp(&own);
    p->socket_id = jv_engine_add_socket(p->engine, p->udp);
    must(p->socket_id >= 0, "socket of the engine");
    must(jv_endpoint_set(&to, AF_INET, (uint8_t *)&sink.sin_addr, ntohs(sink.sin_port), 0) == 0, "endpoint");
    for (uint32_t i = 0; i < sessions; i++)
        add_session(p, i, &to, now_ns);
}

/* An IPv4 packet of INNER bytes that says it is UDP. */
static void make_inner(uint8_t packet[INNER], uint32_t source, uint32_t destination) {
    uint32_t sum = 0;
    memset(packet, 0, INNER);
    packet[0] = 0x45;
    packet[3] = INNER;
    packet[8] = 64;
    packet[9] = IPPROTO_UDP;
    memcpy(packet + 12, &source, 4);
    memcpy(packet + 16, &destination, 4);
    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)packet[i] << 8 | packet[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16));
    packet[10] = (uint8_t)(sum >> 8);
    packet[11] = (uint8_t)sum;
    packet[25] = INNER - 20; /* UDP length; no checksum */
}

/* --- inwards --- */

static void seal(struct plane *p, uint8_t out[SEALED]) {
    const uint32_t session = draw(p);
    const uint64_t counter = p->counters[session]++;
    uint8_t inner[INNER], bytes[32];
    struct jv_aead_key key;
    key_of(session, true, bytes);
    must(jv_aead_key_init(&key, JV_SUITE_CHACHA20POLY1305, bytes, sizeof bytes) == 0, "key");
    make_inner(inner, address_of(session), htonl(0x0b000001u));
    memset(out, 0, HEADER);
    out[0] = 4;
    memcpy(out + 4, &p->indices[session], 4);
    memcpy(out + 8, &counter, 8);
    jv_aead_seal(&key, counter, NULL, 0, inner, INNER, out + HEADER);
}

static uint64_t count(const struct plane *p, enum jv_counter which) {
    return jv_engine_counters(p->engine)->n[which];
}

static uint64_t inwards(struct plane *p, uint64_t packets, uint64_t now_ns) {
    static uint8_t sealed[BATCH][SEALED];
    uint64_t spent = 0, taken = 0;
    const uint64_t written = count(p, JV_CTR_TUN_TX_PACKETS);
    const int device = open("/dev/null", O_RDWR);
    must(device >= 0 && jv_engine_set_tun(p->engine, device, MTU, 0) == 0, "device");
    for (uint64_t sent = 0; sent < packets; sent += BATCH) {
        for (unsigned i = 0; i < BATCH; i++) {
            seal(p, sealed[i]);
            must(sendto(p->sender, sealed[i], SEALED, 0, (struct sockaddr *)&p->at, sizeof p->at) == SEALED,
                 "send");
        }
        for (int n = 1; n > 0;) {
            const uint64_t before = spent_ns();
            n = jv_engine_pump_udp(p->engine, p->socket_id, now_ns);
            spent += spent_ns() - before;
            must(n >= 0, "receive");
            taken += (uint64_t)n;
        }
    }
    must(taken == packets, "every packet received");
    must(count(p, JV_CTR_TUN_TX_PACKETS) - written == packets, "every packet accepted");
    close(device);
    return spent;
}

/* --- outwards --- */

static void drain(int fd) {
    uint8_t datagram[SEALED];
    while (recv(fd, datagram, sizeof datagram, 0) > 0)
        ;
}

static uint64_t outwards(struct plane *p, uint64_t packets, uint64_t now_ns) {
    uint8_t inner[INNER];
    uint64_t spent = 0, taken = 0;
    const uint64_t left = count(p, JV_CTR_TX_DATAGRAMS);
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0, "socket pair");
    must(jv_engine_set_tun(p->engine, pair[0], MTU, 0) == 0, "device");
    while (taken < packets) {
        for (unsigned i = 0; i < BATCH; i++) {
            make_inner(inner, htonl(0x0b000001u), address_of(draw(p)));
            if (send(pair[1], inner, INNER, 0) < 0)
                break;
        }
        for (int n = 1; n > 0;) {
            const uint64_t before = spent_ns();
            n = jv_engine_pump_tun(p->engine, now_ns);
            spent += spent_ns() - before;
            must(n >= 0, "read");
            taken += (uint64_t)n;
        }
        drain(p->sink);
    }
    must(count(p, JV_CTR_TX_DATAGRAMS) - left == taken, "every packet sent");
    close(pair[0]);
    close(pair[1]);
    return spent * packets / taken;
}

static uint64_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long size, resident;
    must(file && fscanf(file, "%lu %lu", &size, &resident) == 2, "/proc/self/statm");
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv) {
    const uint64_t now_ns = 1000 * NS_PER_S;
    struct plane p;
    const uint32_t sessions = argc == 3 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    const uint64_t packets = argc == 3 ? strtoull(argv[2], NULL, 10) / BATCH * BATCH : 0;
    if (!sessions || !packets) {
        fprintf(stderr, "usage: plane SESSIONS PACKETS\n");
        return 2;
    }
    must(jv_aead_init() == 0, "libsodium");
    const uint64_t before_bytes = resident_bytes(), began_ns = spent_ns();
    open_plane(&p, sessions, now_ns);
    const uint64_t opened_ns = spent_ns() - began_ns;
    const uint64_t bytes =
        resident_bytes() - before_bytes - sessions * (sizeof *p.indices + sizeof *p.counters);
    (void)inwards(&p, BATCH * 64, now_ns); /* code and buffers are warm, sessions are not */
    const uint64_t in = inwards(&p, packets, now_ns), out = outwards(&p, packets, now_ns);
    printf("{\"sessions\": %u, \"packets\": %llu, \"in_ns\": %.1f, \"out_ns\": %.1f, \"bytes\": %llu, "
           "\"open_us\": %.2f}\n",
           sessions, (unsigned long long)packets, (double)in / (double)packets, (double)out / (double)packets,
           (unsigned long long)(bytes / sessions), (double)opened_ns / 1e3 / sessions);
    jv_engine_free(p.engine);
    return 0;
}
