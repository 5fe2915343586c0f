/* SPDX-License-Identifier: Apache-2.0 */
/* Handshake initiations from senders that do not exist:
 *
 *   flood FILE TARGET PORT RATE SECONDS SEED
 *
 * FILE holds messages of 148 bytes, of which each packet takes one by chance; its source is any address of
 * 10.128.0.0/9 and any port. What is answered finds nobody. Prints a line of JSON when it begins and one at
 * the end, which SIGTERM or SIGINT bring forward.
 *
 * Rule: open loop; what the kernel refuses is counted and not tried again. */
#include "flows.h"

#include <netinet/ip.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>

#define FD_MESSAGE_BYTES 148U
#define FD_SOURCES       0x0a800000U
#define FD_SOURCE_MASK   0x007fffffU
#define FD_POOL          (1U << 16)
#define FD_PORT_LEAST    1024U
#define FD_TTL           64U

struct __attribute__((packed)) fd_packet {
    struct iphdr ip;
    struct udphdr udp;
    uint8_t message[FD_MESSAGE_BYTES];
};

static uint8_t pool[FD_POOL][FD_MESSAGE_BYTES];
static volatile sig_atomic_t stopping;

static void fd_stop(int number) {
    (void)number;
    stopping = 1;
}

static uint64_t fd_random(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t fd_read_pool(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t count = file ? fread(pool, FD_MESSAGE_BYTES, FD_POOL, file) : 0;
    if (!count)
        fl_die(path);
    fclose(file);
    return (uint32_t)count;
}

/* Addresses and length; the kernel fills in what is zero: identification and checksum of the header. A UDP
 * checksum of zero is none. */
static void fd_prepare(struct fd_packet *packet, uint32_t target, uint16_t port) {
    packet->ip = (struct iphdr){.version = 4,
                                .ihl = sizeof packet->ip / 4,
                                .tot_len = htons(sizeof *packet),
                                .ttl = FD_TTL,
                                .protocol = IPPROTO_UDP,
                                .daddr = htonl(target)};
    packet->udp =
        (struct udphdr){.dest = htons(port), .len = htons(sizeof packet->udp + sizeof packet->message)};
}

static void fd_fill(struct fd_packet *packet, uint32_t count, uint64_t *state) {
    uint64_t chance = fd_random(state), port = fd_random(state) % (UINT16_MAX - FD_PORT_LEAST);
    packet->ip.saddr = htonl(FD_SOURCES | ((uint32_t)chance & FD_SOURCE_MASK));
    packet->udp.source = htons((uint16_t)(FD_PORT_LEAST + port));
    memcpy(packet->message, pool[(chance >> 32) * count >> 32], FD_MESSAGE_BYTES);
}

static uint64_t fd_send(int fd, struct mmsghdr *messages, unsigned count) {
    uint64_t sent = 0;
    for (unsigned done = 0; done < count;) {
        int took = sendmmsg(fd, messages + done, count - done, 0);
        sent += took > 0 ? (uint64_t)took : 0;
        done += took > 0 ? (unsigned)took : 1U;
    }
    return sent;
}

/* Packets due by each tick; returns how many the kernel took. */
static uint64_t fd_run(int fd, struct fd_packet *packets, struct mmsghdr *messages, uint32_t count,
                       uint64_t rate, uint64_t total, uint64_t state) {
    uint64_t sent = 0, made = 0;
    int64_t start_ns = fl_now_ns();
    while (made < total && !stopping) {
        uint64_t due = (uint64_t)((double)(fl_now_ns() - start_ns) * (double)rate / (double)FL_NS_PER_S);
        due = due > total ? total : due;
        unsigned filled = 0;
        for (; filled < FL_BATCH && made < due; filled++, made++)
            fd_fill(&packets[filled], count, &state);
        sent += fd_send(fd, messages, filled);
        if (!filled)
            fl_sleep_until(fl_now_ns() + FL_TICK_NS);
    }
    printf("{\"done\": true, \"made\": %llu, \"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)made,
           (unsigned long long)sent, (double)(fl_now_ns() - start_ns) / (double)FL_NS_PER_S);
    return sent;
}

int main(int argc, char **argv) {
    static struct fd_packet packets[FL_BATCH];
    static struct iovec iov[FL_BATCH];
    static struct mmsghdr messages[FL_BATCH];
    if (argc != 7) {
        fprintf(stderr, "flood FILE TARGET PORT RATE SECONDS SEED\n");
        return 2;
    }
    uint32_t count = fd_read_pool(argv[1]), target = fl_address(argv[2]);
    uint16_t port = (uint16_t)fl_number(argv[3], 1, UINT16_MAX);
    uint64_t rate = fl_number(argv[4], 1, 10000000), seconds = fl_number(argv[5], 1, 86400);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(target)}};
    int size = FL_BUFFER_BYTES, fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0)
        fl_die("raw socket");
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    for (int i = 0; i < FL_BATCH; i++) {
        fd_prepare(&packets[i], target, port);
        iov[i] = (struct iovec){&packets[i], sizeof packets[i]};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &iov[i], .msg_iovlen = 1};
    }
    struct sigaction stop = {.sa_handler = fd_stop};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    puts("{\"ready\": true}");
    fflush(stdout);
    return fd_run(fd, packets, messages, count, rate, rate * seconds,
                  fl_number(argv[6], 0, UINT64_MAX) | 1ULL) == 0;
}
