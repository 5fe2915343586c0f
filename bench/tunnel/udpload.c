/* SPDX-License-Identifier: Apache-2.0 */
/* One UDP stream from one network namespace to another, paced, and how much of it arrived:
 *
 *   udpload FROM_NETNS TO_NETNS ADDRESS SIZE SEGMENTS RATE MILLISECONDS
 *
 * SIZE is the payload of a datagram, SEGMENTS how many of them one call gives to the kernel as one buffer
 * (UDP_SEGMENT; 1: single datagrams, many in one sendmmsg), RATE datagrams per second. Prints one line of
 * JSON.
 *
 * Rule: it costs as little as it can, because it shares the processors with what is measured: it sleeps
 * between bursts, and the receiver takes merged datagrams (UDP_GRO) of which only the first bytes are copied.
 * Both ends are in one process and so on one clock; nothing is allocated once it runs. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UL_BATCH        64        /* messages in one call */
#define UL_BUFFER_BYTES (8 << 20) /* of both sockets */
#define UL_DATA_BYTES   65507     /* the longest UDP payload */
#define UL_HEAD_BYTES   8         /* of what arrives, the part that is copied */
#define UL_NS_PER_S     1000000000LL
#define UL_NS_PER_MS    1000000LL
#define UL_TICK_NS      200000LL /* at 200,000 a second 40 datagrams: well below the 500 of a TUN queue */
/* Who was kept from running for longer does not make up for it: that burst would measure the scheduler. */
#define UL_LATE_NS  1000000LL
#define UL_POLL_NS  (10 * UL_NS_PER_MS)
#define UL_QUIET    3  /* so many polls without an arrival: nothing is on its way any more */
#define UL_DRAIN    50 /* polls at most */
#define UL_WAKE_US  20000
#define UL_NUMBERS  4
#define UL_SEGMENTS 64 /* the kernel's own limit is 64 or 128 */

struct ul_plan {
    uint32_t size, segments;
    uint64_t rate;
    int64_t duration_ns;
};

struct ul_sent {
    uint64_t datagrams;
    int64_t elapsed_ns;
};

static uint8_t payload[UL_DATA_BYTES];
static uint8_t heads[UL_BATCH][UL_HEAD_BYTES];
static struct {
    _Alignas(struct cmsghdr) uint8_t data[CMSG_SPACE(sizeof(int))];
} controls[UL_BATCH];
static _Atomic uint64_t received;
static atomic_bool stopping;

static void ul_die(const char *what) {
    fprintf(stderr, "udpload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t ul_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * UL_NS_PER_S + now.tv_nsec;
}

static void ul_sleep_until(int64_t due_ns) {
    struct timespec due = {.tv_sec = due_ns / UL_NS_PER_S, .tv_nsec = due_ns % UL_NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        ;
}

/* A UDP socket that lives in the named namespace; the thread stays there until the next call. */
static int ul_socket(const char *netns) {
    int size = UL_BUFFER_BYTES;
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", netns);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET))
        ul_die(netns);
    close(namespace);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        ul_die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    return fd;
}

/* --- the receiving end -------------------------------------------------------------------------------------
 */

/* Datagrams in one message: the kernel says how long each is when it has merged them. */
static uint64_t ul_datagrams(struct msghdr *message, uint32_t length) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        int segment = 0;
        if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO)
            continue;
        memcpy(&segment, CMSG_DATA(c), sizeof segment);
        if (segment > 0)
            return (length + (uint32_t)segment - 1) / (uint32_t)segment;
    }
    return 1;
}

static void *ul_receive(void *argument) {
    int fd = *(int *)argument;
    struct iovec iov[UL_BATCH];
    struct mmsghdr messages[UL_BATCH];
    memset(messages, 0, sizeof messages);
    while (!atomic_load(&stopping)) {
        for (int i = 0; i < UL_BATCH; i++) {
            iov[i] = (struct iovec){heads[i], UL_HEAD_BYTES};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = controls[i].data,
                                                  .msg_controllen = sizeof controls[i].data};
        }
        /* MSG_TRUNC: the real length of what was not copied (recv(2)). */
        int got = recvmmsg(fd, messages, UL_BATCH, MSG_WAITFORONE | MSG_TRUNC, NULL);
        uint64_t datagrams = 0;
        for (int i = 0; i < got; i++)
            datagrams += ul_datagrams(&messages[i].msg_hdr, messages[i].msg_len);
        atomic_fetch_add(&received, datagrams);
    }
    return NULL;
}

static int ul_sink(const char *netns, in_port_t *port) {
    int one = 1, fd = ul_socket(netns);
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct timeval wake = {.tv_usec = UL_WAKE_US};
    socklen_t length = sizeof any;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wake, sizeof wake);
    if (bind(fd, (struct sockaddr *)&any, sizeof any) || getsockname(fd, (struct sockaddr *)&any, &length))
        ul_die("bind");
    *port = any.sin_port;
    return fd;
}

/* --- the sending end ---------------------------------------------------------------------------------------
 */

static int ul_source(const char *netns, const char *address, in_port_t port, uint32_t size,
                     uint32_t segments) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port};
    int segment = (int)size, fd = ul_socket(netns);
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
        errno = EINVAL, ul_die(address);
    if (segments > 1 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment))
        ul_die("UDP_SEGMENT");
    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        ul_die("connect");
    return fd;
}

/* Send `count` datagrams; returns how many the kernel took. What it refuses is not tried again: that is a
 * loss before the stream, and the rate is what left. */
static uint64_t ul_burst(int fd, struct mmsghdr *messages, uint32_t segments, uint64_t count) {
    uint64_t left = count / segments, sent = 0;
    while (left) {
        unsigned batch = left < UL_BATCH ? (unsigned)left : UL_BATCH;
        int took = sendmmsg(fd, messages, batch, 0);
        if (took < 0 && errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
            ul_die("send");
        sent += took > 0 ? (uint64_t)took : 0;
        left -= batch;
    }
    return sent * segments;
}

static struct ul_sent ul_send(int fd, const struct ul_plan *plan) {
    struct iovec iov = {payload, (size_t)plan->size * plan->segments};
    struct mmsghdr messages[UL_BATCH];
    struct ul_sent done = {0, 0};
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < UL_BATCH; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    double interval_ns = (double)UL_NS_PER_S / (double)plan->rate;
    int64_t start_ns = ul_now_ns(), end_ns = start_ns + plan->duration_ns, last_ns = start_ns;
    double due = 0;
    for (int64_t tick_ns = start_ns; tick_ns < end_ns; tick_ns += UL_TICK_NS) {
        int64_t now_ns = ul_now_ns();
        if (now_ns < tick_ns) {
            ul_sleep_until(tick_ns);
            now_ns = ul_now_ns();
        }
        tick_ns = now_ns > tick_ns + UL_TICK_NS ? now_ns : tick_ns;
        int64_t waited_ns = now_ns - last_ns;
        last_ns = now_ns;
        due += (double)(waited_ns < UL_LATE_NS ? waited_ns : UL_LATE_NS) / interval_ns;
        uint64_t whole = (uint64_t)due / plan->segments * plan->segments;
        due -= (double)whole;
        done.datagrams += ul_burst(fd, messages, plan->segments, whole);
    }
    done.elapsed_ns = ul_now_ns() - start_ns;
    return done;
}

/* Wait until nothing has arrived for a while. */
static void ul_drain(void) {
    uint64_t seen = atomic_load(&received);
    for (int polls = 0, quiet = 0; polls < UL_DRAIN && quiet < UL_QUIET; polls++) {
        ul_sleep_until(ul_now_ns() + UL_POLL_NS);
        uint64_t now = atomic_load(&received);
        quiet = now == seen ? quiet + 1 : 0;
        seen = now;
    }
}

static uint64_t ul_number(const char *text, uint64_t most) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || value < 1 || value > most) {
        fprintf(stderr, "udpload: %s is not a number from 1 to %llu\n", text, (unsigned long long)most);
        exit(2);
    }
    return value;
}

static struct ul_plan ul_read_plan(char **numbers) {
    struct ul_plan plan = {.size = (uint32_t)ul_number(numbers[0], UL_DATA_BYTES),
                           .segments = (uint32_t)ul_number(numbers[1], UL_SEGMENTS),
                           .rate = ul_number(numbers[2], 100000000),
                           .duration_ns = (int64_t)ul_number(numbers[3], 60000) * UL_NS_PER_MS};
    if (plan.size * plan.segments > UL_DATA_BYTES) {
        fprintf(stderr, "udpload: %u datagrams of %u bytes are more than one buffer\n", plan.segments,
                plan.size);
        exit(2);
    }
    return plan;
}

int main(int argc, char **argv) {
    if (argc != 4 + UL_NUMBERS) {
        fprintf(stderr, "udpload FROM_NETNS TO_NETNS ADDRESS SIZE SEGMENTS RATE MILLISECONDS\n");
        return 2;
    }
    struct ul_plan plan = ul_read_plan(argv + 4);
    in_port_t port = 0;
    int sink = ul_sink(argv[2], &port);
    int source = ul_source(argv[1], argv[3], port, plan.size, plan.segments);
    pthread_t receiver;
    prctl(PR_SET_TIMERSLACK, 1UL);
    if ((errno = pthread_create(&receiver, NULL, ul_receive, &sink)))
        ul_die("thread");
    struct ul_sent sent = ul_send(source, &plan);
    ul_drain();
    atomic_store(&stopping, true);
    pthread_join(receiver, NULL);
    printf("{\"sent\": %llu, \"received\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent.datagrams,
           (unsigned long long)atomic_load(&received), (double)sent.elapsed_ns / (double)UL_NS_PER_S);
    return 0;
}
