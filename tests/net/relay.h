/* SPDX-License-Identifier: Apache-2.0 */
/* The impairment relay: a UDP NAT that delays, loses, reorders, duplicates, corrupts, limits, swallows and
 * rebinds.
 *
 *   client(s) --- listen [ up: judge -> queue ] upstream socket per client --- gateway
 *                        [ queue <- judge :down ]
 *
 * Rule: what happens to packet n of a direction is a function of (seed, direction, n) and of the rule in
 * force, never of the time or of how many random numbers were drawn before. One thread, every table bounded,
 * no allocation after the start. */
#ifndef RL_RELAY_H
#define RL_RELAY_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#define RL_BURST    64    /* datagrams per system call */
#define RL_FLOWS    256   /* client addresses remembered, as in a NAT's table: the longest unused gives way */
#define RL_GRAVES   64    /* sockets of lost mappings that stay open, mute */
#define RL_SOURCES  16    /* addresses to rebind to */
#define RL_TAPE     256   /* recorded datagrams per direction */
#define RL_QUEUE    16384 /* datagrams waiting per direction */
#define RL_NS_PER_S 1000000000LL

enum rl_way { RL_UP, RL_DOWN, RL_WAYS };

/* Why a datagram went no further; RL_PASS is the one that did. */
enum rl_fate {
    RL_PASS,
    RL_BLACKHOLE,
    RL_MTU,
    RL_LOSS,
    RL_BURST_LOSS,
    RL_RATE,
    RL_QUEUE_FULL,
    RL_NO_FLOW,
    RL_OVERSIZE,
    RL_SEND_ERROR,
    RL_STOLEN,
    RL_FATES
};

union rl_addr {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The impairments of one direction; all zero (and `types` all ones) is a perfect wire. Probabilities are
 * 0..1. */
struct rl_rule {
    double loss;
    double ge_p, ge_r, ge_bad,
        ge_good; /* Gilbert-Elliott: good->bad, bad->good, loss while bad, loss while good */
    double duplicate, corrupt, reorder;
    int64_t delay_ns, jitter_ns, reorder_ns;
    uint64_t rate_bps, queue_bytes;
    uint32_t mtu; /* of the IP packet; 0: no limit */
    bool blackhole, ordered;
    uint64_t types[4]; /* bit set of first payload bytes that the rule applies to */
};

/* The copy-and-forward attacker of one direction. */
struct rl_attack {
    bool active, only,
        forward_back; /* only: the original is dropped; forward_back: what comes back is passed on */
    union rl_addr source;
    int64_t delay_ns;
    int64_t left; /* copies still to make, negative: no limit */
    uint64_t types[4];
};

/* What was decided for one datagram. */
struct rl_verdict {
    enum rl_fate fate;
    bool duplicate, reordered;
    int32_t corrupt_bit; /* -1: none */
    int64_t delay_ns;    /* delay, jitter and reordering, without the rate limit */
};

struct rl_counters {
    uint64_t packets, bytes, sent, sent_bytes, duplicated, corrupted, reordered, copied, back;
    uint64_t fate[RL_FATES];
};

struct rl_item {
    int64_t due_ns;
    uint64_t seq;
    uint32_t slot, size, tenant;
    uint16_t flow;
    bool thief;
};

struct rl_queue {
    struct rl_item *heap;
    uint32_t *free_slots;
    uint8_t *slots;
    uint32_t count, free_count, slot_bytes;
    uint64_t seq;
};

struct rl_tape {
    uint8_t *data;
    uint32_t size[RL_TAPE];
    uint32_t count, wanted;
};

struct rl_dir {
    struct rl_rule rule;
    struct rl_attack attack;
    struct rl_counters counters;
    struct rl_queue queue;
    struct rl_tape tape;
    uint64_t seed, number;
    int64_t wire_free_ns, last_due_ns;
    bool ge_bad_now;
};

/* `tenant` numbers the clients that a flow has had: what waits for an earlier one is lost with its mapping.
 */
struct rl_flow {
    union rl_addr client;
    int upstream, thief;
    uint32_t tenant;
    uint64_t used;
};

struct rl_relay {
    struct rl_dir dir[RL_WAYS];
    struct rl_flow flows[RL_FLOWS];
    uint32_t flow_count, flow_limit, last_flow;
    uint64_t uses, forgotten; /* datagrams of all flows so far; clients that gave way to a new one */
    union rl_addr listen, upstream, sources[RL_SOURCES];
    uint32_t source_count, source_now;
    int epoll, listen_fd, thief_down, control_fd;
    int graves[RL_GRAVES];
    uint64_t buried, rebinds, seed;
    uint32_t slot_bytes;
    FILE *log;
    bool quit;
};

/* epoll's user data: kind in the upper half, flow number or descriptor in the lower. */
enum rl_kind { RL_LISTEN, RL_UPSTREAM, RL_THIEF_UP, RL_THIEF_DOWN, RL_CONTROL, RL_CONVERSATION };

/* relay_impair.c: decisions, no I/O. */
void rl_rule_reset(struct rl_rule *rule);
struct rl_verdict rl_judge(struct rl_dir *dir, const uint8_t *data, uint32_t size, uint32_t ip_bytes);
bool rl_rate_admit(struct rl_dir *dir, uint32_t size, int64_t now_ns, int64_t *start_ns);
bool rl_type_matches(const uint64_t types[4], const uint8_t *data, uint32_t size);

/* relay_queue.c: datagrams waiting for their time. */
int rl_queue_init(struct rl_queue *queue, uint32_t slot_bytes);
/* A free slot to fill, NULL when the queue is full; committed by rl_queue_push. */
uint8_t *rl_queue_slot(struct rl_queue *queue, uint32_t *slot);
void rl_queue_push(struct rl_queue *queue, struct rl_item item);
/* Up to `max` items due at now_ns, earliest first; their slots stay taken until rl_queue_release. */
uint32_t rl_queue_due(struct rl_queue *queue, int64_t now_ns, struct rl_item *items, uint32_t max);
void rl_queue_release(struct rl_queue *queue, const struct rl_item *items, uint32_t count);

/* relay_net.c: sockets, flows, bursts. */
int rl_net_open(struct rl_relay *relay);
void rl_net_event(struct rl_relay *relay, enum rl_kind kind, uint32_t index);
void rl_net_flush(struct rl_relay *relay, int64_t now_ns);
int rl_net_rebind(struct rl_relay *relay);
int rl_net_inject(struct rl_relay *relay, enum rl_way way, uint32_t flow, const union rl_addr *from,
                  const uint8_t *data, uint32_t size, uint32_t count);
/* The attacker of a direction has changed: sockets of its old source go. */
int rl_net_attack(struct rl_relay *relay, enum rl_way way);
int rl_watch(struct rl_relay *relay, int fd, enum rl_kind kind, uint32_t index);

/* relay_control.c: text commands over a UNIX SOCK_SEQPACKET socket, one reply each. */
int rl_control_open(struct rl_relay *relay, const char *path);
void rl_control_accept(struct rl_relay *relay);
void rl_control_serve(struct rl_relay *relay, int fd);
void rl_command(struct rl_relay *relay, char *line, char *reply, size_t reply_size);

/* relay_parse.c: words of the control language and of the command line. */
bool rl_parse_addr(const char *text, union rl_addr *addr); /* ADDR, ADDR:PORT, [ADDR6]:PORT */
bool rl_parse_setting(struct rl_rule *rule, const char *word);
bool rl_parse_types(const char *text, uint64_t types[4]);
bool rl_parse_ns(const char *text, int64_t *ns);
int rl_parse_hex(const char *text, uint8_t *out, size_t size);
void rl_stats(const struct rl_relay *relay, char *reply, size_t size);

socklen_t rl_addr_size(const union rl_addr *addr);
bool rl_addr_equal(const union rl_addr *a, const union rl_addr *b);
int64_t rl_now_ns(void);

#endif
