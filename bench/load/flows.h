/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs of the load generator share: the clock, numbers of a command line, control messages. */
#ifndef FL_FLOWS_H
#define FL_FLOWS_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define FL_NS_PER_S     1000000000LL
#define FL_NS_PER_US    1000LL
#define FL_BATCH        64         /* messages in one call */
#define FL_BUFFER_BYTES (64 << 20) /* of sockets: half a second at 80,000 packets a second */
#define FL_TICK_NS      100000LL   /* what is due within it leaves together */

/* Room for the source or destination address of one message. */
struct fl_control {
    _Alignas(struct cmsghdr) uint8_t data[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

static inline void fl_die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline int64_t fl_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * FL_NS_PER_S + now.tv_nsec;
}

static inline void fl_sleep_until(int64_t due_ns) {
    struct timespec due = {.tv_sec = due_ns / FL_NS_PER_S, .tv_nsec = due_ns % FL_NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        ;
}

static inline uint64_t fl_number(const char *text, uint64_t least, uint64_t most) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text || value < least || value > most) {
        fprintf(stderr, "%s is not a number from %llu to %llu\n", text, (unsigned long long)least,
                (unsigned long long)most);
        exit(2);
    }
    return value;
}

/* An address as a number in host order. */
static inline uint32_t fl_address(const char *text) {
    struct in_addr found;
    if (inet_pton(AF_INET, text, &found) != 1) {
        fprintf(stderr, "%s is not an IPv4 address\n", text);
        exit(2);
    }
    return ntohl(found.s_addr);
}

static inline int fl_udp_socket(void) {
    int size = FL_BUFFER_BYTES, one = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fl_die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one))
        fl_die("IP_PKTINFO");
    return fd;
}

/* The address that a message was sent to, in network order; 0 when the kernel did not say. */
static inline uint32_t fl_destination(struct msghdr *message) {
    struct in_pktinfo info;
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    if (!c || c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO)
        return 0;
    memcpy(&info, CMSG_DATA(c), sizeof info);
    return info.ipi_addr.s_addr;
}

/* Send the message from this address, in network order. */
static inline void fl_set_source(struct msghdr *message, struct fl_control *control, uint32_t source) {
    struct in_pktinfo info = {.ipi_spec_dst = {source}};
    memset(control, 0, sizeof *control);
    message->msg_control = control->data;
    message->msg_controllen = sizeof control->data;
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    c->cmsg_level = IPPROTO_IP;
    c->cmsg_type = IP_PKTINFO;
    c->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(c), &info, sizeof info);
}

#endif
