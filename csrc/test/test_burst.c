/* SPDX-License-Identifier: Apache-2.0 */
/* Bursts over loopback sockets: whole, in order, from the right address, with and without the offloads. */
#include "jv/burst.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"

struct pair {
    int a, b;
    unsigned features; /* of both */
    struct jv_endpoint to_b;
    struct jv_counters sent, received;
    struct jv_sender *sender;
    struct jv_burst *burst;
};

static int open_socket(int family) {
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1, size = 8 << 20;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = {.v6 = {.sin6_family = (sa_family_t)family}};

    CHECK(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    if (family == AF_INET6)
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) == 0);
    CHECK(bind(fd, &at.any, family == AF_INET ? sizeof(at.v4) : sizeof(at.v6)) == 0);
    return fd;
}

static uint16_t port_of(int fd) {
    struct sockaddr_in6 at;
    socklen_t len = sizeof(at);

    CHECK(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    return ntohs(at.sin6_port); /* at the same place in both families */
}

static void open_pair(struct pair *p, int family, unsigned wanted, uint32_t datagram_bytes) {
    static const uint8_t loopback4[4] = {127, 0, 0, 1}, loopback6[16] = {[15] = 1};
    int features;

    memset(p, 0, sizeof(*p));
    p->a = open_socket(family);
    p->b = open_socket(family);
    CHECK(jv_udp_prepare(p->a, wanted) >= 0);
    features = jv_udp_prepare(p->b, wanted);
    CHECK(features >= 0 && ((unsigned)features & ~wanted) == 0);
    p->features = (unsigned)features;
    CHECK(jv_endpoint_set(&p->to_b, family, family == AF_INET ? loopback4 : loopback6, port_of(p->b), 0) ==
          0);
    p->sender = jv_sender_new(p->features);
    p->burst = jv_burst_new(p->features, datagram_bytes);
    CHECK(p->sender && p->burst);
}

static void close_pair(struct pair *p) {
    jv_sender_free(p->sender);
    jv_burst_free(p->burst);
    close(p->a);
    close(p->b);
}

static uint8_t payload[65536];

static void number_segments(uint32_t len, uint16_t segment_bytes, uint32_t first) {
    for (uint32_t at = 0; at < len; at += segment_bytes)
        jv_put_le32(payload + at, first + at / segment_bytes);
}

/* Receives everything that waits; checks numbers and lengths of segments; returns how many segments came. */
static uint32_t receive_all(struct pair *p, uint16_t segment_bytes) {
    uint32_t next = 0;

    for (int calls = 0; calls < 1000; calls++) {
        int n = jv_burst_recv(p->burst, p->b, 3, &p->received);

        CHECK(n >= 0);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            const struct jv_msg *m = &jv_burst_msgs(p->burst)[i];

            CHECK(((uintptr_t)m->data & 63) == 0);
            CHECK(m->from.socket == 3 && ntohs(m->from.remote.v4.sin_port) == port_of(p->a));
            CHECK(m->segments == (m->len + m->segment_bytes - 1) / m->segment_bytes);
            CHECK(m->segments == 1 || m->segment_bytes == segment_bytes);
            for (uint32_t at = 0; at < m->len; at += m->segment_bytes)
                CHECK(jv_get_le32(m->data + at) == next++);
        }
    }
    return next;
}

static void send_trains(int family, unsigned wanted) {
    struct pair p;
    struct jv_train trains[3];

    open_pair(&p, family, wanted, 2048);
    trains[0] = (struct jv_train){.data = payload, .len = 1000, .to = &p.to_b};
    trains[1] = (struct jv_train){
        .data = payload + 1000, .len = 40 * 1000 + 10, .segment_bytes = 1000, .to = &p.to_b};
    trains[2] = (struct jv_train){.data = payload + 50000, .len = 500, .segment_bytes = 1000, .to = &p.to_b};
    number_segments(42000, 1000, 0);
    jv_put_le32(payload + 50000, 42);
    CHECK(jv_sender_send(p.sender, p.a, trains, 3, &p.sent) == 43);
    CHECK(receive_all(&p, 1000) == 43);
    CHECK(p.sent.n[JV_CTR_TX_DATAGRAMS] == 43 && p.sent.n[JV_CTR_TX_BYTES] == 41510);
    CHECK(p.sent.n[JV_CTR_TX_CALLS] == 1);
    CHECK(p.received.n[JV_CTR_RX_DATAGRAMS] == 43 && p.received.n[JV_CTR_RX_BYTES] == 41510);
    CHECK(trains[1].flags == 0);
    close_pair(&p);
}

static void test_trains(void) {
    for (unsigned wanted = 0; wanted < 4; wanted++) {
        send_trains(AF_INET, wanted);
        send_trains(AF_INET6, wanted);
    }
}

static void test_many_single_datagrams(void) {
    struct jv_train trains[200];
    struct pair p;

    open_pair(&p, AF_INET, 0, 1500);
    number_segments(200 * 64, 64, 0);
    for (uint32_t i = 0; i < 200; i++)
        trains[i] = (struct jv_train){.data = payload + i * 64, .len = 64, .to = &p.to_b};
    CHECK(jv_sender_send(p.sender, p.a, trains, 200, &p.sent) == 200);
    CHECK(p.sent.n[JV_CTR_TX_CALLS] == 4);
    CHECK(receive_all(&p, 64) == 200);
    CHECK(p.received.n[JV_CTR_RX_CALLS] == 4);
    close_pair(&p);
}

static void send_single(const struct pair *p, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        CHECK(sendto(p->a, payload, 64, 0, (const struct sockaddr *)&p->to_b.remote.v4,
                     sizeof p->to_b.remote.v4) == 64);
}

/* Where trains may come a call is filled by eights, and ends with the part that brought one. */
static void test_a_train_ends_a_call_that_single_datagrams_fill(void) {
    struct pair p;
    struct jv_train train = {.data = payload, .len = 640, .segment_bytes = 64, .to = &p.to_b};

    open_pair(&p, AF_INET, JV_UDP_GSO | JV_UDP_GRO, 1500);
    send_single(&p, 63);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 63 && p.received.n[JV_CTR_RX_CALLS] == 8);
    CHECK(!jv_burst_single(p.burst));
    send_single(&p, 100);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == JV_BURST_MSGS_PLAIN);
    CHECK(jv_burst_single(p.burst));
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 100 - JV_BURST_MSGS_PLAIN);
    send_single(&p, 18);
    for (int i = 0; i < 20; i++)
        CHECK(jv_sender_send(p.sender, p.a, &train, 1, &p.sent) == 10);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 24);
    CHECK(jv_burst_msgs(p.burst)[17].segments == 1 && jv_burst_msgs(p.burst)[23].segments == 10);
    CHECK(!jv_burst_single(p.burst));
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == JV_BURST_MSGS_GRO);
    CHECK(jv_burst_error(p.burst) == 0);
    close_pair(&p);
}

static void test_answer_leaves_by_the_address_asked(void) {
    static const uint8_t second[4] = {127, 0, 0, 77};
    struct jv_train train = {.data = payload, .len = 8};
    struct jv_endpoint back;
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    struct pair p;

    open_pair(&p, AF_INET, 0, 1500);
    CHECK(jv_endpoint_set(&p.to_b, AF_INET, second, port_of(p.b), 0) == 0);
    train.to = &p.to_b;
    CHECK(jv_sender_send(p.sender, p.a, &train, 1, &p.sent) == 1);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 1);
    back = jv_burst_msgs(p.burst)[0].from;
    CHECK(memcmp(&back.local.v4, second, 4) == 0 && back.local_ifindex == 1);
    train.to = &back;
    CHECK(jv_sender_send(p.sender, p.b, &train, 1, &p.sent) == 1);
    CHECK(recvfrom(p.a, payload, 8, 0, (struct sockaddr *)&from, &len) == 8);
    CHECK(memcmp(&from.sin_addr, second, 4) == 0);
    close_pair(&p);
}

static void test_stale_local_address(void) {
    static const uint8_t gone[4] = {192, 0, 2, 200};
    struct pair p;
    struct jv_train train = {.data = payload, .len = 8};

    open_pair(&p, AF_INET, 0, 1500);
    memcpy(&p.to_b.local.v4, gone, 4);
    train.to = &p.to_b;
    CHECK(jv_sender_send(p.sender, p.a, &train, 1, &p.sent) == 1);
    CHECK(train.flags == JV_TRAIN_LOCAL_STALE && p.sent.n[JV_CTR_TX_LOCAL_STALE] == 1);
    CHECK(jv_sender_send(p.sender, p.a, &train, 1, &p.sent) == 1);
    CHECK(p.sent.n[JV_CTR_TX_LOCAL_STALE] == 1);
    close_pair(&p);
}

static void test_truncated(void) {
    struct pair p;
    struct jv_train trains[3];

    open_pair(&p, AF_INET, 0, 100);
    for (uint32_t i = 0; i < 3; i++)
        trains[i] = (struct jv_train){.data = payload, .len = i == 1 ? 101 : 100, .to = &p.to_b};
    jv_put_le32(payload, 77);
    CHECK(jv_sender_send(p.sender, p.a, trains, 3, &p.sent) == 3);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 2);
    CHECK(jv_burst_msgs(p.burst)[1].len == 100 && jv_get_le32(jv_burst_msgs(p.burst)[1].data) == 77);
    CHECK(p.received.n[JV_CTR_DROP_RX_TRUNCATED] == 1);
    for (uint32_t i = 0; i < 3; i++) { /* the next burst finds everything in its place again */
        jv_put_le32(payload + 200 * i, i);
        trains[i] = (struct jv_train){.data = payload + 200 * i, .len = 50 + i, .to = &p.to_b};
    }
    CHECK(jv_sender_send(p.sender, p.a, trains, 3, &p.sent) == 3);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 3);
    for (uint32_t i = 0; i < 3; i++) {
        const struct jv_msg *m = &jv_burst_msgs(p.burst)[i];

        CHECK(m->len == 50 + i && jv_get_le32(m->data) == i && m->from.local_ifindex == 1);
    }
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 0);
    close_pair(&p);
}

static void test_empty_datagram(void) {
    struct pair p;

    open_pair(&p, AF_INET6, JV_UDP_GRO, 100);
    CHECK(sendto(p.a, "", 0, 0, (struct sockaddr *)&p.to_b.remote.v6, sizeof(p.to_b.remote.v6)) == 0);
    CHECK(jv_burst_recv(p.burst, p.b, 0, &p.received) == 1);
    CHECK(jv_burst_msgs(p.burst)[0].len == 0 && jv_burst_msgs(p.burst)[0].segments == 1);
    close_pair(&p);
}

static void test_impossible_trains(void) {
    struct pair p;
    struct jv_train trains[4];

    open_pair(&p, AF_INET, JV_UDP_GSO, 1500);
    trains[0] = (struct jv_train){.data = payload, .len = 0, .to = &p.to_b};
    trains[1] = (struct jv_train){.data = payload, .len = JV_TRAIN_BYTES_MAX + 1, .to = &p.to_b};
    trains[2] = (struct jv_train){.data = payload, .len = 6401, .segment_bytes = 100, .to = &p.to_b};
    trains[3] = (struct jv_train){.data = payload, .len = 6400, .segment_bytes = 100, .to = &p.to_b};
    CHECK(jv_sender_send(p.sender, p.a, trains, 4, &p.sent) == 64);
    CHECK(p.sent.n[JV_CTR_DROP_TX_TRAIN] == 3);
    CHECK(jv_sender_send(p.sender, p.a, trains, 0, &p.sent) == 0);
    close_pair(&p);
}

/* SO_NO_CHECK makes the kernel refuse UDP_SEGMENT with EIO, as for a device without checksum offload. */
static void test_gso_refused(void) {
    const int on = 1;
    struct jv_train trains[2];
    struct pair p;

    open_pair(&p, AF_INET, JV_UDP_GSO, 2048);
    if (!(p.features & JV_UDP_GSO)) {
        printf("# no UDP_SEGMENT here\n");
        close_pair(&p);
        return;
    }
    CHECK(setsockopt(p.a, SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on)) == 0);
    number_segments(5100, 1000, 0);
    jv_put_le32(payload + 6000, 6);
    trains[0] = (struct jv_train){.data = payload, .len = 5100, .segment_bytes = 1000, .to = &p.to_b};
    trains[1] = (struct jv_train){.data = payload + 6000, .len = 100, .to = &p.to_b};
    CHECK(jv_sender_send(p.sender, p.a, trains, 2, &p.sent) == 7);
    CHECK(trains[0].flags == JV_TRAIN_GSO_FAILED && trains[1].flags == 0);
    CHECK(p.sent.n[JV_CTR_TX_GSO_FALLBACK] == 1);
    CHECK(receive_all(&p, 1000) == 7);
    trains[0].flags = JV_TRAIN_NO_GSO;
    trains[1].data = payload + 6000;
    CHECK(jv_sender_send(p.sender, p.a, trains, 2, &p.sent) == 7);
    CHECK(p.sent.n[JV_CTR_TX_GSO_FALLBACK] == 1);
    CHECK(receive_all(&p, 1000) == 7);
    close_pair(&p);
}

static void test_unreachable_drops_one_train(void) {
    static const uint8_t nowhere[4] = {0, 0, 0, 0};
    struct jv_endpoint bad;
    struct jv_train trains[3];
    struct pair p;

    open_pair(&p, AF_INET, 0, 1500);
    CHECK(jv_endpoint_set(&bad, AF_INET, nowhere, 0, 0) == 0); /* port 0: EINVAL */
    for (int i = 0; i < 3; i++)
        trains[i] = (struct jv_train){.data = payload, .len = 10, .to = i == 1 ? &bad : &p.to_b};
    CHECK(jv_sender_send(p.sender, p.a, trains, 3, &p.sent) == 2);
    CHECK(p.sent.n[JV_CTR_DROP_TX_ERROR] == 1);
    close_pair(&p);
}

static void test_bad_descriptor(void) {
    struct pair p;
    struct jv_train train;

    open_pair(&p, AF_INET, 0, 1500);
    train = (struct jv_train){.data = payload, .len = 10, .to = &p.to_b};
    CHECK(jv_udp_prepare(-1, 0) == -EBADF);
    CHECK(jv_burst_recv(p.burst, -1, 0, &p.received) == -EBADF && jv_burst_error(p.burst) == -EBADF);
    CHECK(jv_sender_send(p.sender, -1, &train, 1, &p.sent) == 0 && p.sent.n[JV_CTR_DROP_TX_ERROR] == 1);
    CHECK(jv_burst_new(0, 0) == NULL && jv_burst_new(0, 65536) == NULL);
    close_pair(&p);
}

/* A network namespace with one Ethernet device on which nobody answers: datagrams to a neighbour wait for its
 * address and fill the sender's socket buffer. False where that is not allowed. */
static bool enter_silent_network(void) {
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI, .ifr_name = "jvtest0"};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a090901)};
    int tap, fd;

    if (unshare(CLONE_NEWNET) != 0)
        return false;
    tap = open("/dev/net/tun", O_RDWR); /* open until the program ends */
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (tap < 0 || ioctl(tap, TUNSETIFF, &ifr) != 0)
        return false;
    memcpy(&ifr.ifr_addr, &address, sizeof(address));
    CHECK(ioctl(fd, SIOCSIFADDR, &ifr) == 0);
    ifr.ifr_flags = IFF_UP;
    CHECK(ioctl(fd, SIOCSIFFLAGS, &ifr) == 0);
    close(fd);
    return true;
}

static void test_full_buffer_drops_the_rest(void) {
    static const uint8_t neighbour[4] = {10, 9, 9, 2};
    struct jv_train trains[100];
    struct jv_counters ctr = {{0}};
    struct jv_sender *s = jv_sender_new(0);
    struct jv_endpoint to;
    int fd, size = 1;
    uint32_t sent;

    if (!enter_silent_network()) {
        printf("# skipped: no network namespace or TAP device allowed here\n");
        jv_sender_free(s);
        return;
    }
    fd = open_socket(AF_INET);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    CHECK(jv_endpoint_set(&to, AF_INET, neighbour, 9, 0) == 0);
    for (int i = 0; i < 100; i++)
        trains[i] = (struct jv_train){.data = payload, .len = 2000, .segment_bytes = 1000, .to = &to};
    sent = jv_sender_send(s, fd, trains, 100, &ctr);
    CHECK(sent + ctr.n[JV_CTR_DROP_TX_EAGAIN] == 200);
    CHECK(sent < 10);
    CHECK(ctr.n[JV_CTR_DROP_TX_ERROR] == 0);
    jv_sender_free(s);
    close(fd);
}

int main(void) {
    RUN(test_trains);
    RUN(test_many_single_datagrams);
    RUN(test_a_train_ends_a_call_that_single_datagrams_fill);
    RUN(test_answer_leaves_by_the_address_asked);
    RUN(test_stale_local_address);
    RUN(test_truncated);
    RUN(test_empty_datagram);
    RUN(test_impossible_trains);
    RUN(test_gso_refused);
    RUN(test_unreachable_drops_one_train);
    RUN(test_bad_descriptor);
    RUN(test_full_buffer_drops_the_rest);
    return failures();
}
