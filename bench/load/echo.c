/* SPDX-License-Identifier: Apache-2.0 */
/* Answers every datagram from the address that it was sent to:
 *
 *   echo PORT
 *
 * The addresses are made local by a route (`ip route add local 10.48.0.0/12 dev lo`). It prints "ready" and
 * runs until it is ended.
 *
 * Rule: it costs as little as it can: a call for many datagrams each way. What the kernel refuses to send is
 * lost, as on any wire. */
#include "flows.h"

#define EC_BYTES 2048U

static uint8_t data[FL_BATCH][EC_BYTES];
static struct fl_control controls[FL_BATCH];
static struct sockaddr_in senders[FL_BATCH];
static struct iovec iov[FL_BATCH];
static struct mmsghdr messages[FL_BATCH];

static int ec_receive(int fd) {
    for (int i = 0; i < FL_BATCH; i++) {
        iov[i] = (struct iovec){data[i], EC_BYTES};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &senders[i],
                                              .msg_namelen = sizeof senders[i],
                                              .msg_iov = &iov[i],
                                              .msg_iovlen = 1,
                                              .msg_control = controls[i].data,
                                              .msg_controllen = sizeof controls[i].data};
    }
    return recvmmsg(fd, messages, FL_BATCH, MSG_WAITFORONE, NULL);
}

static void ec_answer(int fd, int count) {
    for (int i = 0; i < count; i++) {
        iov[i].iov_len = messages[i].msg_len;
        fl_set_source(&messages[i].msg_hdr, &controls[i], fl_destination(&messages[i].msg_hdr));
    }
    for (int sent = 0; sent < count;) {
        int took = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0);
        sent += took > 0 ? took : 1;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "echo PORT\n");
        return 2;
    }
    struct sockaddr_in any = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)fl_number(argv[1], 1, UINT16_MAX))};
    int fd = fl_udp_socket();
    if (bind(fd, (struct sockaddr *)&any, sizeof any))
        fl_die("bind");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int got = ec_receive(fd);
        if (got < 0 && errno != EINTR && errno != ECONNREFUSED)
            fl_die("receive");
        ec_answer(fd, got);
    }
}
