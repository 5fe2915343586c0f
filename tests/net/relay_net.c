/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets and flows of the relay. A client address gets one upstream socket, connected to the gateway, as in
 * a NAT; of a full table the client that was quiet for longest loses it. The socket of a lost mapping stays
 * open but mute: closing it would answer with ICMP, which a real NAT does not. */
#include "relay.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define RL_BUFFER_BYTES (8 << 20)
#define RL_MAX_DATAGRAM 65536

static uint8_t burst_data[RL_BURST][RL_MAX_DATAGRAM];
static union rl_addr burst_from[RL_BURST];
static struct iovec burst_iov[RL_BURST];
static struct mmsghdr burst_msgs[RL_BURST];

int rl_watch(struct rl_relay *relay, int fd, enum rl_kind kind, uint32_t index) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | index};
    return epoll_ctl(relay->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* A bound UDP socket, connected when `peer` is given; -1 with errno. */
static int rl_socket(const union rl_addr *local, const union rl_addr *peer) {
    int size = RL_BUFFER_BYTES, one = 1;
    int fd = socket(local->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    /* An attacker's source may be an address that this namespace does not own (IP_FREEBIND would bind but not
     * send). */
    setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one);
    /* A chosen port may still be held by a buried socket. */
    if (local->v4.sin_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, &local->sa, rl_addr_size(local)) || (peer && connect(fd, &peer->sa, rl_addr_size(peer)))) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* The upstream side's local address: the current source, or any of the gateway's family. */
static union rl_addr rl_source(const struct rl_relay *relay) {
    if (relay->source_count)
        return relay->sources[relay->source_now];
    union rl_addr any = {.sa.sa_family = relay->upstream.sa.sa_family};
    return any;
}

static void rl_bury(struct rl_relay *relay, int fd) {
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop};
    epoll_ctl(relay->epoll, EPOLL_CTL_DEL, fd, NULL);
    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    uint32_t grave = relay->buried++ % RL_GRAVES;
    if (relay->graves[grave] >= 0)
        close(relay->graves[grave]);
    relay->graves[grave] = fd;
}

int rl_net_open(struct rl_relay *relay) {
    relay->epoll = epoll_create1(EPOLL_CLOEXEC);
    relay->listen_fd = rl_socket(&relay->listen, NULL);
    relay->thief_down = -1;
    for (uint32_t i = 0; i < RL_GRAVES; i++)
        relay->graves[i] = -1;
    if (relay->epoll < 0 || relay->listen_fd < 0)
        return -1;
    return rl_watch(relay, relay->listen_fd, RL_LISTEN, 0);
}

static int rl_flow_connect(struct rl_relay *relay, uint32_t index) {
    union rl_addr source = rl_source(relay);
    int fd = rl_socket(&source, &relay->upstream);
    if (fd < 0)
        return -1;
    relay->flows[index].upstream = fd;
    return rl_watch(relay, fd, RL_UPSTREAM, index);
}

int rl_net_rebind(struct rl_relay *relay) {
    for (uint32_t i = 0; i < relay->flow_count; i++) {
        int old = relay->flows[i].upstream;
        /* The old socket still holds its port, so the new one is different. */
        if (rl_flow_connect(relay, i))
            return -1;
        rl_bury(relay, old);
    }
    relay->rebinds++;
    return 0;
}

/* The flow that has carried nothing for longest, in either direction. */
static uint32_t rl_flow_oldest(const struct rl_relay *relay) {
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < relay->flow_count; i++)
        if (relay->flows[i].used < relay->flows[oldest].used)
            oldest = i;
    return oldest;
}

/* A flow for a new client, in the place of the oldest one when the table is full; -1 without a socket. */
static int rl_flow_make(struct rl_relay *relay, const union rl_addr *client) {
    bool full = relay->flow_count == relay->flow_limit;
    uint32_t i = full ? rl_flow_oldest(relay) : relay->flow_count;
    struct rl_flow old = relay->flows[i];
    if (rl_flow_connect(relay, i))
        return -1;
    if (full) {
        rl_bury(relay, old.upstream);
        if (old.thief >= 0)
            rl_bury(relay, old.thief);
        relay->forgotten++;
    }
    relay->flow_count += !full;
    relay->flows[i].client = *client;
    relay->flows[i].thief = -1;
    relay->flows[i].tenant++;
    relay->flows[i].used = ++relay->uses;
    return (int)i;
}

/* Index of the client's flow; -1 when none could be made. */
static int rl_flow_of(struct rl_relay *relay, const union rl_addr *client) {
    if (relay->last_flow < relay->flow_count && rl_addr_equal(&relay->flows[relay->last_flow].client, client))
        return (int)relay->last_flow;
    uint32_t i = 0;
    while (i < relay->flow_count && !rl_addr_equal(&relay->flows[i].client, client))
        i++;
    int found = i < relay->flow_count ? (int)i : rl_flow_make(relay, client);
    relay->last_flow = found < 0 ? relay->last_flow : (uint32_t)found;
    return found;
}

static int rl_thief_up(struct rl_relay *relay, uint32_t flow) {
    struct rl_flow *owner = &relay->flows[flow];
    if (owner->thief >= 0)
        return 0;
    owner->thief = rl_socket(&relay->dir[RL_UP].attack.source, &relay->upstream);
    return owner->thief < 0 ? -1 : rl_watch(relay, owner->thief, RL_THIEF_UP, flow);
}

int rl_net_attack(struct rl_relay *relay, enum rl_way way) {
    for (uint32_t i = 0; way == RL_UP && i < relay->flow_count; i++)
        if (relay->flows[i].thief >= 0) {
            rl_bury(relay, relay->flows[i].thief);
            relay->flows[i].thief = -1;
        }
    if (way == RL_UP)
        return 0;
    if (relay->thief_down >= 0)
        rl_bury(relay, relay->thief_down);
    relay->thief_down = rl_socket(&relay->dir[RL_DOWN].attack.source, NULL);
    return relay->thief_down < 0 ? -1 : rl_watch(relay, relay->thief_down, RL_THIEF_DOWN, 0);
}

static void rl_enqueue(struct rl_relay *relay, enum rl_way way, uint32_t flow, const uint8_t *data,
                       uint32_t size, int64_t due_ns, int32_t corrupt_bit, bool thief) {
    struct rl_dir *dir = &relay->dir[way];
    uint32_t slot;
    uint8_t *room = rl_queue_slot(&dir->queue, &slot);
    if (!room) {
        dir->counters.fate[RL_QUEUE_FULL]++;
        return;
    }
    memcpy(room, data, size);
    if (corrupt_bit >= 0)
        room[corrupt_bit / 8] ^= (uint8_t)(1 << corrupt_bit % 8);
    struct rl_item item = {.due_ns = due_ns,
                           .slot = slot,
                           .size = size,
                           .tenant = relay->flows[flow].tenant,
                           .flow = (uint16_t)flow,
                           .thief = thief};
    rl_queue_push(&dir->queue, item);
}

static void rl_log(struct rl_relay *relay, enum rl_way way, const struct rl_verdict *verdict) {
    static const char *const fates[RL_FATES] = {"pass", "blackhole", "mtu", "loss", "burst_loss"};
    if (!relay->log)
        return;
    uint64_t number = relay->dir[way].number - 1;
    fprintf(relay->log, "%s %llu %s delay=%lld%s%s", way == RL_UP ? "up" : "down", (unsigned long long)number,
            fates[verdict->fate], (long long)verdict->delay_ns, verdict->duplicate ? " dup" : "",
            verdict->reordered ? " reorder" : "");
    if (verdict->corrupt_bit >= 0)
        fprintf(relay->log, " corrupt=%d", verdict->corrupt_bit);
    fputc('\n', relay->log);
}

static void rl_record(struct rl_tape *tape, uint32_t slot_bytes, const uint8_t *data, uint32_t size) {
    if (tape->count >= tape->wanted)
        return;
    memcpy(tape->data + (size_t)tape->count * slot_bytes, data, size);
    tape->size[tape->count++] = size;
}

/* True when the attacker took the datagram for itself alone. */
static bool rl_attack(struct rl_relay *relay, enum rl_way way, uint32_t flow, const uint8_t *data,
                      uint32_t size, int64_t now_ns) {
    struct rl_dir *dir = &relay->dir[way];
    struct rl_attack *attack = &dir->attack;
    if (!attack->active || !attack->left || !rl_type_matches(attack->types, data, size))
        return false;
    if (way == RL_UP && rl_thief_up(relay, flow))
        return false;
    if (attack->left > 0)
        attack->left--;
    dir->counters.copied++;
    rl_enqueue(relay, way, flow, data, size, now_ns + attack->delay_ns, -1, true);
    return attack->only;
}

static void rl_admit(struct rl_relay *relay, enum rl_way way, uint32_t flow, const uint8_t *data,
                     uint32_t size, const struct rl_verdict *verdict, int64_t now_ns) {
    struct rl_dir *dir = &relay->dir[way];
    int64_t start_ns;
    if (!rl_rate_admit(dir, size, now_ns, &start_ns)) {
        dir->counters.fate[RL_RATE]++;
        return;
    }
    int64_t due_ns = start_ns + verdict->delay_ns;
    if (dir->rule.ordered && !verdict->reordered) {
        due_ns = due_ns < dir->last_due_ns ? dir->last_due_ns : due_ns;
        dir->last_due_ns = due_ns;
    }
    dir->counters.corrupted += verdict->corrupt_bit >= 0;
    dir->counters.reordered += verdict->reordered;
    dir->counters.duplicated += verdict->duplicate;
    for (int copy = 0; copy <= verdict->duplicate; copy++)
        rl_enqueue(relay, way, flow, data, size, due_ns, verdict->corrupt_bit, false);
}

/* One datagram on its way through the relay. */
static void rl_pass(struct rl_relay *relay, enum rl_way way, uint32_t flow, const uint8_t *data,
                    uint32_t size, int64_t now_ns) {
    struct rl_dir *dir = &relay->dir[way];
    dir->counters.packets++;
    dir->counters.bytes += size;
    relay->flows[flow].used = ++relay->uses;
    rl_record(&dir->tape, relay->slot_bytes, data, size);
    bool taken = rl_attack(relay, way, flow, data, size, now_ns);
    uint32_t header = (relay->listen.sa.sa_family == AF_INET6 ? 40 : 20) + 8;
    struct rl_verdict verdict = rl_judge(dir, data, size, size + header);
    rl_log(relay, way, &verdict);
    if (taken)
        verdict.fate = RL_STOLEN;
    dir->counters.fate[verdict.fate]++;
    if (verdict.fate == RL_PASS)
        rl_admit(relay, way, flow, data, size, &verdict, now_ns);
}

static int rl_receive(int fd) {
    for (int i = 0; i < RL_BURST; i++) {
        burst_iov[i] = (struct iovec){burst_data[i], RL_MAX_DATAGRAM};
        burst_msgs[i].msg_hdr = (struct msghdr){.msg_name = &burst_from[i],
                                                .msg_namelen = sizeof burst_from[i],
                                                .msg_iov = &burst_iov[i],
                                                .msg_iovlen = 1};
    }
    return recvmmsg(fd, burst_msgs, RL_BURST, 0, NULL);
}

static void rl_from_client(struct rl_relay *relay, int fd, bool back) {
    struct rl_dir *dir = &relay->dir[RL_UP];
    int count = rl_receive(fd);
    int64_t now_ns = rl_now_ns();
    for (int i = 0; i < count; i++) {
        uint32_t size = burst_msgs[i].msg_len;
        int flow = size > relay->slot_bytes ? -1 : rl_flow_of(relay, &burst_from[i]);
        dir->counters.back += back;
        if (flow < 0)
            dir->counters.fate[size > relay->slot_bytes ? RL_OVERSIZE : RL_NO_FLOW]++;
        else if (!back || relay->dir[RL_DOWN].attack.forward_back)
            rl_pass(relay, RL_UP, (uint32_t)flow, burst_data[i], size, now_ns);
    }
}

static void rl_from_gateway(struct rl_relay *relay, uint32_t flow, bool back) {
    struct rl_dir *dir = &relay->dir[RL_DOWN];
    int count = rl_receive(back ? relay->flows[flow].thief : relay->flows[flow].upstream);
    int64_t now_ns = rl_now_ns();
    for (int i = 0; i < count; i++) {
        uint32_t size = burst_msgs[i].msg_len;
        dir->counters.back += back;
        if (size > relay->slot_bytes)
            dir->counters.fate[RL_OVERSIZE]++;
        else if (!back || relay->dir[RL_UP].attack.forward_back)
            rl_pass(relay, RL_DOWN, flow, burst_data[i], size, now_ns);
    }
}

void rl_net_event(struct rl_relay *relay, enum rl_kind kind, uint32_t index) {
    switch (kind) {
    case RL_LISTEN:
        rl_from_client(relay, relay->listen_fd, false);
        break;
    case RL_THIEF_DOWN:
        rl_from_client(relay, relay->thief_down, true);
        break;
    case RL_UPSTREAM:
        rl_from_gateway(relay, index, false);
        break;
    case RL_THIEF_UP:
        rl_from_gateway(relay, index, true);
        break;
    default:
        break;
    }
}

static int rl_out_fd(const struct rl_relay *relay, enum rl_way way, const struct rl_item *item) {
    if (way == RL_UP)
        return item->thief ? relay->flows[item->flow].thief : relay->flows[item->flow].upstream;
    return item->thief ? relay->thief_down : relay->listen_fd;
}

/* Sends msgs[0..count) on one socket. A pending ICMP error fails the first call of a socket, so each is tried
 * twice. */
static void rl_send(struct rl_dir *dir, int fd, struct mmsghdr *msgs, uint32_t count) {
    uint32_t done = 0;
    for (int failures = 0; done < count;) {
        int sent = sendmmsg(fd, msgs + done, count - done, 0);
        if (sent > 0) {
            for (int i = 0; i < sent; i++)
                dir->counters.sent_bytes += msgs[done + (uint32_t)i].msg_len;
            dir->counters.sent += (uint32_t)sent;
            done += (uint32_t)sent;
            failures = 0;
        } else if (++failures > 1) {
            dir->counters.fate[RL_SEND_ERROR]++;
            done++;
            failures = 0;
        }
    }
}

/* Keeps what still has its mapping, in order, and counts and frees the rest. Returns how many stay. */
static uint32_t rl_keep_mapped(struct rl_relay *relay, struct rl_dir *dir, struct rl_item *items,
                               uint32_t count) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].tenant == relay->flows[items[i].flow].tenant) {
            items[kept++] = items[i];
            continue;
        }
        dir->counters.fate[RL_NO_FLOW]++;
        rl_queue_release(&dir->queue, &items[i], 1);
    }
    return kept;
}

static void rl_flush(struct rl_relay *relay, enum rl_way way, int64_t now_ns) {
    struct rl_dir *dir = &relay->dir[way];
    struct rl_item items[RL_BURST];
    uint32_t taken = rl_queue_due(&dir->queue, now_ns, items, RL_BURST);
    uint32_t count = rl_keep_mapped(relay, dir, items, taken);
    for (uint32_t i = 0; i < count; i++) {
        union rl_addr *to = &relay->flows[items[i].flow].client;
        burst_iov[i] =
            (struct iovec){dir->queue.slots + (size_t)items[i].slot * dir->queue.slot_bytes, items[i].size};
        burst_msgs[i].msg_hdr = (struct msghdr){.msg_iov = &burst_iov[i], .msg_iovlen = 1};
        if (way == RL_DOWN) {
            burst_msgs[i].msg_hdr.msg_name = to;
            burst_msgs[i].msg_hdr.msg_namelen = rl_addr_size(to);
        }
    }
    for (uint32_t start = 0, end; start < count; start = end) {
        int fd = rl_out_fd(relay, way, &items[start]);
        for (end = start + 1; end < count && rl_out_fd(relay, way, &items[end]) == fd;)
            end++;
        rl_send(dir, fd, burst_msgs + start, end - start);
    }
    rl_queue_release(&dir->queue, items, count);
}

void rl_net_flush(struct rl_relay *relay, int64_t now_ns) {
    rl_flush(relay, RL_UP, now_ns);
    rl_flush(relay, RL_DOWN, now_ns);
}

int rl_net_inject(struct rl_relay *relay, enum rl_way way, uint32_t flow, const union rl_addr *from,
                  const uint8_t *data, uint32_t size, uint32_t count) {
    if (way == RL_DOWN && flow >= relay->flow_count)
        return -1;
    const union rl_addr *to = way == RL_UP ? &relay->upstream : &relay->flows[flow].client;
    int fd = from ? rl_socket(from, to) : -1;
    if (!from && flow < relay->flow_count)
        fd = way == RL_UP ? relay->flows[flow].upstream : relay->listen_fd;
    if (fd < 0)
        return -1;
    bool named = !from && way == RL_DOWN;
    for (uint32_t i = 0; i < count; i++) {
        ssize_t sent = sendto(fd, data, size, 0, named ? &to->sa : NULL, named ? rl_addr_size(to) : 0);
        relay->dir[way].counters.fate[RL_SEND_ERROR] += sent < 0;
    }
    if (from)
        rl_bury(relay, fd);
    return 0;
}
