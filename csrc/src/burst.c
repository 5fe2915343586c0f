/* SPDX-License-Identifier: Apache-2.0 */
/* Memory is taken at creation and every call is bounded by it. What the kernel says about a datagram (length,
 * segment size, addresses) is checked before it leaves this file. */
#include "jv/burst.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>

/* Missing in older headers; Linux 4.18 and 5.0. */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define MSGS_MAX JV_BURST_MSGS_PLAIN
/* In a row: the sender, the sockets or the way know no trains. */
#define SINGLES 64u
/* Between messages of 64 KB, so that datagrams which come singly do not meet in the same sets of the caches.
 */
#define COLOUR_BYTES 1536u
/* PKTINFO (the larger, IPv6) and one int or u16. */
#define CONTROL_BYTES (CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)))

union control {
    struct cmsghdr align;
    uint8_t bytes[CONTROL_BYTES];
};

int jv_udp_prepare(int fd, unsigned wanted) {
    const int on = 1, no_segments = 0;
    socklen_t len = sizeof(int);
    unsigned has = 0;
    int family, rc;

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) < 0)
        return -errno;
    if (family == AF_INET6)
        rc = setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
    else
        rc = setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
    if (rc < 0)
        return -errno;
    if (wanted & JV_UDP_GSO && setsockopt(fd, SOL_UDP, UDP_SEGMENT, &no_segments, sizeof(no_segments)) == 0)
        has |= JV_UDP_GSO;
    if (wanted & JV_UDP_GRO && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on)) == 0)
        has |= JV_UDP_GRO;
    return (int)has;
}

/* --- receiving --- */

struct jv_burst {
    unsigned part;       /* messages that one recvmmsg asks for */
    unsigned singles;    /* messages in a row that were no trains, at most SINGLES */
    unsigned kept;       /* messages of the last call */
    int error;           /* which ended it, 0 = none */
    unsigned dirty;      /* headers that the last call changed */
    uint32_t data_bytes; /* per message */
    size_t stride;       /* headroom and data */
    uint8_t *arena;
    struct mmsghdr headers[MSGS_MAX];
    struct iovec iov[MSGS_MAX];
    union control control[MSGS_MAX];
    struct jv_msg msgs[MSGS_MAX];
};

static void point_at_slot(struct jv_burst *b, unsigned i) {
    struct jv_msg *msg = &b->msgs[i];

    memset(msg, 0, sizeof(*msg));
    msg->data = b->arena + i * b->stride + JV_BURST_HEADROOM;
    b->iov[i] = (struct iovec){.iov_base = msg->data, .iov_len = b->data_bytes};
    b->headers[i].msg_hdr = (struct msghdr){
        .msg_name = &msg->from.remote,
        .msg_namelen = sizeof(msg->from.remote),
        .msg_iov = &b->iov[i],
        .msg_iovlen = 1,
        .msg_control = &b->control[i],
        .msg_controllen = sizeof(b->control[i]),
    };
}

struct jv_burst *jv_burst_new(unsigned features, uint32_t datagram_bytes) {
    const bool trains = features & JV_UDP_GRO;
    struct jv_burst *b;

    if (datagram_bytes < 1 || datagram_bytes > UINT16_MAX)
        return NULL;
    b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->part = trains ? JV_BURST_MSGS_GRO : JV_BURST_MSGS_PLAIN;
    b->data_bytes = trains ? UINT16_MAX : datagram_bytes;
    b->stride = JV_BURST_HEADROOM + (b->data_bytes + JV_CACHE_LINE - 1) / JV_CACHE_LINE * JV_CACHE_LINE +
                (trains ? COLOUR_BYTES : 0);
    b->arena = aligned_alloc(JV_CACHE_LINE, MSGS_MAX * b->stride);
    if (!b->arena) {
        free(b);
        return NULL;
    }
    b->dirty = MSGS_MAX;
    return b;
}

void jv_burst_free(struct jv_burst *b) {
    if (!b)
        return;
    free(b->arena);
    free(b);
}

static void read_local_address(struct jv_endpoint *from, const struct cmsghdr *c) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo info;

        memcpy(&info, CMSG_DATA(c), sizeof(info));
        from->local.v4 = info.ipi_addr;
        from->local_ifindex = (uint32_t)info.ipi_ifindex;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo info;

        memcpy(&info, CMSG_DATA(c), sizeof(info));
        from->local.v6 = info.ipi6_addr;
        from->local_ifindex = info.ipi6_ifindex;
    }
}

static void read_control(struct jv_msg *msg, struct msghdr *header) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        int bytes;

        read_local_address(&msg->from, c);
        if (c->cmsg_level != SOL_UDP || c->cmsg_type != UDP_GRO)
            continue;
        memcpy(&bytes, CMSG_DATA(c), sizeof(bytes));
        if (bytes > 0 && (uint32_t)bytes < msg->len)
            msg->segment_bytes = (uint16_t)bytes;
    }
}

/* Fills in what the kernel delivered into message i; false if it was cut off. */
static bool accept_message(struct jv_burst *b, unsigned i, uint16_t socket) {
    struct msghdr *header = &b->headers[i].msg_hdr;
    struct jv_msg *msg = &b->msgs[i];

    if (header->msg_flags & MSG_TRUNC)
        return false;
    msg->len = b->headers[i].msg_len;
    msg->segment_bytes = (uint16_t)msg->len;
    msg->from.socket = socket;
    read_control(msg, header);
    msg->segments = 1;
    if (msg->segment_bytes < msg->len)
        msg->segments = (uint16_t)((msg->len + msg->segment_bytes - 1) / msg->segment_bytes);
    return true;
}

/* Behind the messages that lie there already. Returns how many came, or -errno. */
static int recv_part(struct jv_burst *b, int fd, struct jv_counters *ctr) {
    const int got = recvmmsg(fd, b->headers + b->dirty, b->part, MSG_DONTWAIT, NULL);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    b->dirty += (unsigned)got;
    jv_count(ctr, JV_CTR_RX_CALLS);
    return got;
}

/* The messages from there on; whether a train was among them. */
static bool accept_part(struct jv_burst *b, unsigned from, uint16_t socket, struct jv_counters *ctr) {
    bool train = false;

    for (unsigned i = from; i < b->dirty; i++) {
        const struct jv_msg *msg = &b->msgs[i];

        if (!accept_message(b, i, socket)) {
            jv_count(ctr, JV_CTR_DROP_RX_TRUNCATED);
            continue;
        }
        train = train || msg->segments > 1;
        b->singles = msg->segments > 1 ? 0 : b->singles + (b->singles < SINGLES);
        jv_count_add(ctr, JV_CTR_RX_DATAGRAMS, msg->segments);
        jv_count_add(ctr, JV_CTR_RX_BYTES, msg->len);
        b->msgs[b->kept++] = *msg;
    }
    return train;
}

/* A few trains are as much work as many single datagrams. So where trains may come few messages are asked for
 * at once, and more only while none came. */
int jv_burst_recv(struct jv_burst *b, int fd, uint16_t socket, struct jv_counters *ctr) {
    int got;
    bool train;

    for (unsigned i = 0; i < b->dirty; i++)
        point_at_slot(b, i);
    b->dirty = b->kept = 0;
    do {
        const unsigned from = b->dirty;

        got = recv_part(b, fd, ctr);
        train = accept_part(b, from, socket, ctr);
    } while (got == (int)b->part && !train && b->dirty < MSGS_MAX);
    b->error = got < 0 ? got : 0;
    return b->kept == 0 ? b->error : (int)b->kept;
}

int jv_burst_error(const struct jv_burst *b) {
    return b->error;
}

bool jv_burst_single(const struct jv_burst *b) {
    return b->singles == SINGLES;
}

struct jv_msg *jv_burst_msgs(struct jv_burst *b) {
    return b->msgs;
}

/* --- sending --- */

/* One message of a sendmmsg: a whole train with UDP_SEGMENT, or one of its segments. */
struct outgoing {
    struct jv_train *train;
    uint16_t segments;
    bool without_local;
};

struct jv_sender {
    unsigned features;
    unsigned queued;
    bool blocked; /* the socket buffer is full: drop what is left of this call */
    struct jv_counters *ctr;
    int fd;
    uint32_t sent;
    struct mmsghdr headers[MSGS_MAX];
    struct iovec iov[MSGS_MAX];
    union control control[MSGS_MAX];
    struct outgoing out[MSGS_MAX];
};

struct jv_sender *jv_sender_new(unsigned features) {
    struct jv_sender *s = calloc(1, sizeof(*s));

    if (s)
        s->features = features;
    return s;
}

void jv_sender_free(struct jv_sender *s) {
    free(s);
}

static bool has_local(const struct jv_endpoint *to) {
    static const struct jv_endpoint none;

    return memcmp(&to->local, &none.local, sizeof(none.local)) != 0;
}

/* Appends a control message; returns the bytes that it takes. */
static size_t put_control(uint8_t *at, int level, int type, const void *data, size_t len) {
    struct cmsghdr *c = (struct cmsghdr *)at;

    memset(at, 0, CMSG_SPACE(len));
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), data, len);
    return CMSG_SPACE(len);
}

/* The address only: which device it leaves by is for the routing table, or asymmetric routes would break. A
 * link-local address means nothing without its device. */
static size_t put_local(uint8_t *at, const struct jv_endpoint *to) {
    if (to->remote.family == AF_INET6) {
        struct in6_pktinfo info = {.ipi6_addr = to->local.v6};

        if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr))
            info.ipi6_ifindex = to->local_ifindex;
        return put_control(at, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
    }
    return put_control(at, IPPROTO_IP, IP_PKTINFO, &(struct in_pktinfo){.ipi_spec_dst = to->local.v4},
                       sizeof(struct in_pktinfo));
}

static void write_control(struct jv_sender *s, unsigned i) {
    const struct outgoing *o = &s->out[i];
    const struct jv_endpoint *to = o->train->to;
    uint8_t *control = s->control[i].bytes;
    struct msghdr *header = &s->headers[i].msg_hdr;
    size_t used = 0;

    if (!o->without_local && has_local(to))
        used += put_local(control, to);
    if (o->segments > 1)
        used += put_control(control + used, SOL_UDP, UDP_SEGMENT, &o->train->segment_bytes,
                            sizeof(o->train->segment_bytes));
    header->msg_control = used ? control : NULL;
    header->msg_controllen = used;
}

static void queue(struct jv_sender *s, struct jv_train *train, uint32_t offset, uint32_t len,
                  uint16_t segments) {
    unsigned i = s->queued++;

    s->out[i] = (struct outgoing){
        .train = train,
        .segments = segments,
        .without_local = train->flags & JV_TRAIN_LOCAL_STALE,
    };
    s->iov[i] = (struct iovec){.iov_base = (void *)(uintptr_t)(train->data + offset), .iov_len = len};
    s->headers[i].msg_hdr = (struct msghdr){
        .msg_name = (void *)(uintptr_t)&train->to->remote,
        .msg_namelen = jv_endpoint_socklen(train->to),
        .msg_iov = &s->iov[i],
        .msg_iovlen = 1,
    };
    write_control(s, i);
}

static void count_sent(struct jv_sender *s, const struct outgoing *o, uint64_t bytes) {
    s->sent += o->segments;
    jv_count_add(s->ctr, JV_CTR_TX_DATAGRAMS, o->segments);
    jv_count_add(s->ctr, JV_CTR_TX_BYTES, bytes);
    if (o->without_local && !(o->train->flags & JV_TRAIN_LOCAL_STALE) && has_local(o->train->to)) {
        o->train->flags |= JV_TRAIN_LOCAL_STALE;
        jv_count(s->ctr, JV_CTR_TX_LOCAL_STALE);
    }
}

bool jv_local_error(int error) {
    switch (error) {
    case ENETUNREACH:
    case ENETDOWN:
    case EADDRNOTAVAIL:
    case ENODEV:
    case ENXIO:
    case EPERM:
    case EACCES:
        return true;
    default:
        return false;
    }
}

static void count_lost(struct jv_sender *s, struct jv_train *train, int error, uint16_t segments) {
    if (jv_local_error(error))
        train->error = error;
    if (error == EAGAIN || error == ENOBUFS) {
        s->blocked = true;
        jv_count_add(s->ctr, JV_CTR_DROP_TX_EAGAIN, segments);
    } else if (error == EMSGSIZE) {
        jv_count_add(s->ctr, JV_CTR_DROP_MTU, segments);
    } else {
        jv_count_add(s->ctr, JV_CTR_DROP_TX_ERROR, segments);
    }
}

/* The device cannot segment (EIO: no checksum offload), or a segment exceeds its MTU (EMSGSIZE, before 6.9
 * EINVAL). */
static bool blames_gso(int error) {
    return error == EIO || error == EMSGSIZE || error == EINVAL;
}

/* The address is no longer ours (EINVAL), or leads nowhere. */
static bool blames_local(int error) {
    return error == EINVAL || error == ENETUNREACH || error == EHOSTUNREACH || error == EADDRNOTAVAIL ||
           error == ENODEV;
}

/* Sends the train of message i segment by segment, in the place of that message. Rare, so plain sendmsg. */
static void resend_piecewise(struct jv_sender *s, unsigned i) {
    struct outgoing *o = &s->out[i];
    struct jv_train *train = o->train;
    uint32_t left = train->len;

    train->flags |= JV_TRAIN_GSO_FAILED;
    jv_count(s->ctr, JV_CTR_TX_GSO_FALLBACK);
    o->segments = 1;
    write_control(s, i);
    for (uint32_t at = 0; at < train->len; at += train->segment_bytes, left -= (uint32_t)s->iov[i].iov_len) {
        s->iov[i].iov_base = (void *)(uintptr_t)(train->data + at);
        s->iov[i].iov_len = left < train->segment_bytes ? left : train->segment_bytes;
        if (s->blocked)
            count_lost(s, train, EAGAIN, 1);
        else if (sendmsg(s->fd, &s->headers[i].msg_hdr, MSG_DONTWAIT) < 0)
            count_lost(s, train, errno, 1);
        else
            count_sent(s, o, s->iov[i].iov_len);
    }
}

/* After message i failed: true if it is to be tried again as it is now, false if it is done with. */
static bool remedy(struct jv_sender *s, unsigned i, int error) {
    struct outgoing *o = &s->out[i];

    if (error == EINTR)
        return true;
    if (!o->without_local && has_local(o->train->to) && blames_local(error)) {
        o->without_local = true;
        write_control(s, i);
        return true;
    }
    if (o->segments > 1 && blames_gso(error))
        resend_piecewise(s, i);
    else
        count_lost(s, o->train, error, o->segments);
    return false;
}

/* sendmmsg stops before the first message that fails and reports its error only when asked again. */
static void flush(struct jv_sender *s) {
    unsigned at = 0;

    while (at < s->queued && !s->blocked) {
        int took = sendmmsg(s->fd, s->headers + at, s->queued - at, MSG_DONTWAIT);

        if (took < 0) {
            at += remedy(s, at, errno) ? 0 : 1;
            continue;
        }
        jv_count(s->ctr, JV_CTR_TX_CALLS);
        for (; took > 0; took--, at++)
            count_sent(s, &s->out[at], s->iov[at].iov_len);
    }
    for (; at < s->queued; at++)
        count_lost(s, s->out[at].train, EAGAIN, s->out[at].segments);
    s->queued = 0;
}

/* Segments of a train, 0 if no socket may carry it. Fills in a segment size left open. */
static uint16_t count_segments(struct jv_train *train) {
    uint32_t segments;

    if (train->len < 1 || train->len > JV_TRAIN_BYTES_MAX)
        return 0;
    if (train->segment_bytes == 0 || train->segment_bytes > train->len)
        train->segment_bytes = (uint16_t)train->len;
    segments = (train->len + train->segment_bytes - 1) / train->segment_bytes;
    return segments <= JV_TRAIN_SEGMENTS_MAX ? (uint16_t)segments : 0;
}

static void queue_train(struct jv_sender *s, struct jv_train *train, uint16_t segments) {
    bool whole = segments == 1 || (s->features & JV_UDP_GSO && !(train->flags & JV_TRAIN_NO_GSO));
    uint32_t step = whole ? train->len : train->segment_bytes;

    for (uint32_t at = 0; at < train->len; at += step) {
        uint32_t len = train->len - at < step ? train->len - at : step;

        if (s->queued == MSGS_MAX)
            flush(s);
        queue(s, train, at, len, whole ? segments : 1);
    }
}

uint32_t jv_sender_send(struct jv_sender *s, int fd, struct jv_train *trains, size_t n,
                        struct jv_counters *ctr) {
    s->fd = fd;
    s->ctr = ctr;
    s->blocked = false;
    s->sent = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t segments = count_segments(&trains[i]);

        if (segments == 0)
            jv_count(ctr, JV_CTR_DROP_TX_TRAIN);
        else
            queue_train(s, &trains[i], segments);
    }
    flush(s);
    return s->sent;
}
