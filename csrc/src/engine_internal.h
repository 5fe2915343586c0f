/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the engine share: its parts and the calls between them. Not installed; the outside sees
 * jv/engine.h only.
 *
 * The rule of threads: what takes a struct jv_engine runs under the engine's lock and may change anything;
 * what takes a struct jv_worker runs beside the lock and touches only what is its own thread's. Ciphers,
 * checksums and the system calls of the packet path are on the worker's side. A packet crosses twice: for its
 * key and counter on the way out, before and after its tag on the way in.
 */
#ifndef JV_ENGINE_INTERNAL_H
#define JV_ENGINE_INTERNAL_H

#include "jv/binding.h"
#include "jv/burst.h"
#include "jv/coalesce.h"
#include "jv/engine.h"
#include "jv/frames.h"
#include "jv/gate.h"
#include "jv/packet.h"
#include "jv/path.h"
#include "jv/ring.h"
#include "jv/route.h"
#include "jv/session.h"
#include "jv/split.h"
#include "jv/worker.h"

#include <pthread.h>
#include <stdatomic.h>

#define JV_NS_PER_S           1000000000ull
#define JV_HEADER_BYTES       16u
#define JV_TAG_BYTES          16u
#define JV_MAC_BYTES          16u
#define JV_TYPE_INITIATION    1u
#define JV_TYPE_RESPONSE      2u
#define JV_TYPE_COOKIE        3u
#define JV_TYPE_TRANSPORT     4u
#define JV_TYPE_JUMP          5u
#define JV_SUITE_CONTROL      0u
#define JV_MIN_DATAGRAM_BYTES 32u /* a keepalive; every other message is longer */

#define JV_SOCKETS_MAX          16
#define JV_TX_PACKETS           64u /* per pump: about 0.1 ms of ChaCha20-Poly1305 at 1420 bytes */
#define JV_RX_DATAGRAMS         64u
#define JV_RX_BATCH             32u     /* datagrams between two crossings: 45 KB, the first-level cache */
#define JV_TX_SUPERS            8u      /* per pump, and as much in smaller packets */
#define JV_TICK_SESSIONS        1024u   /* sessions looked at per tick: below 1 ms */
#define JV_STAGE_PACKETS        1024u   /* waiting packets of all sessions */
#define JV_STAGE_PER_SESSION    64u     /* one session may not take the pool */
#define JV_RING_HANDSHAKE_BYTES 262144u /* some 1,000 initiations: 0.3 s of Python's work */
#define JV_HANDSHAKES_PRESSED   250u    /* waiting: what Python takes for load (tunnel.py) */
#define JV_RING_EVENT_BYTES     262144u
#define JV_RING_CONTROL_BYTES   262144u
#define JV_CONTROLS_BEHIND      2u     /* of one session, while Python is behind; else what fits a byte */
#define JV_RING_BEHIND_BYTES    32768u /* some 300 facts: Python is 30 ms behind */
#define JV_NOTICES_PER_S        10u    /* session.md: new-address notices per session */
#define JV_IDLE_AFTER_NS        (10 * JV_NS_PER_S)
#define JV_IDLE_INTERVAL_MAX_NS (25 * JV_NS_PER_S)
#define JV_BURST_NS             (JV_NS_PER_S / 10) /* of budget that may be spent at once */
#define JV_REPORTS_PER_S        2000u              /* measurements: a tenth of a core of Python's */
#define JV_PROBE_BUDGET         20000u /* liveness.probe_budget: a third of a core, system calls included */
#define JV_SOCKET_ERRORS_PER_S  10u
#define JV_ICMP_INTERVAL_NS     (JV_NS_PER_S / 100)

struct jv_socket {
    int fd[JV_WORKERS_MAX]; /* each worker's own; the first is used by all who hold the lock. < 0 = free */
    int family;
    unsigned features; /* JV_UDP_* */
    unsigned errors;   /* told in the second from errors_ns on */
    uint64_t errors_ns;
};

struct jv_stage {
    uint8_t *arena;
    uint32_t packet_bytes;
    uint16_t free_head;
    uint16_t next[JV_STAGE_PACKETS];
    uint32_t len[JV_STAGE_PACKETS];
};

/* What the lock hands out for the packets of one read: their counters are taken, their bytes are accounted
 * for, and nothing here changes when the session does. */
struct jv_grant {
    struct jv_hot_copy key;
    uint64_t counter; /* of the next packet */
    uint32_t slot, local_index, remote_index;
    uint32_t mtu_bytes; /* of the path: packets are padded no further */
    int fd;
    uint8_t suite; /* 0 = type 4 */
    uint8_t path_id;
    bool no_gso;
    bool extra; /* duplicated or copied elsewhere after it was sent */
    bool begun; /* the last train is of this grant */
    struct jv_endpoint to;
};

/* Whose train it was: a keypair that is gone by the time of the settling has nothing to learn. */
struct jv_sent {
    uint32_t slot, local_index;
    int fd;
};

/* Packets are sealed out of `input` into the arena, one behind the other, so equal ones of one session are a
 * train without a copy. */
struct jv_tx {
    uint8_t *input; /* what was read of the device, behind the header that came with it */
    uint8_t *arena;
    uint32_t arena_bytes;
    uint32_t used_bytes; /* sealed */
    uint32_t trains;
    bool notable; /* something of these trains is to be settled under the lock */
    struct jv_train train[JV_TX_PACKETS];
    struct jv_endpoint to[JV_TX_PACKETS];
    struct jv_sent sent[JV_TX_PACKETS];
    struct jv_grant grant;
    struct jv_split split;
};

/* One datagram on its way through the phases of rx.c. */
enum jv_job_state {
    JV_JOB_DROPPED = 0,
    JV_JOB_WHOLE,  /* not data: handled under the lock, in its turn */
    JV_JOB_SEALED, /* data with a key */
    JV_JOB_OPENED, /* its tag has verified */
    JV_JOB_PASSED, /* an inner packet for the device */
};

struct jv_job {
    const struct jv_msg *msg;
    uint8_t *datagram;
    uint32_t len;
    uint32_t inner_bytes; /* once opened */
    uint8_t state;
    bool jump;    /* type 5: its header is authenticated and names a suite */
    uint8_t key;  /* which of the batch's copies */
    int8_t fault; /* of the inner packet, as jv_ip_parse names it */
    struct jv_ip ip;
};

struct jv_rx {
    unsigned jobs, keys;
    struct jv_job job[JV_RX_BATCH];
    struct jv_hot_copy key[JV_RX_BATCH];
};

/* One thread's own part. The engine has one as well: of Python's thread where that pumps, and for whatever is
 * sent under the lock. */
/* How densely datagrams have come. */
struct jv_pace {
    uint64_t since_ns;          /* begin of the window that is counted */
    uint32_t datagrams, before; /* in it, and in the whole one before */
    int taken;                  /* by the last pump */
};

struct jv_worker {
    struct jv_engine *e;
    unsigned number; /* which of a socket's descriptors and of the device's queues are its own */
    int tun_fd;
    unsigned tun_features; /* JV_TUN_* */
    uint32_t mtu_bytes;
    uint64_t now_ns; /* of the pump that runs */
    struct jv_burst *burst;
    struct jv_pace pace;
    struct jv_sender *sender;
    struct jv_counters counters; /* since the last folding */
    struct jv_tx tx;
    struct jv_rx rx;
    struct jv_coalesce sink;

    /* Of a native one. */
    pthread_t thread;
    bool started;
    int epoll_fd;
    int wake_fd;
    atomic_uint turn;                             /* odd while it works */
    uint64_t rx_datagrams, tx_datagrams, wakeups; /* under the lock */
};

struct jv_engine {
    pthread_mutex_t lock;
    struct jv_table *table;
    struct jv_routes *routes;
    struct jv_gate *gate;       /* before the next two */
    struct jv_ring *handshakes; /* unauthenticated, from sources that have been here before */
    struct jv_ring *strangers;  /* and from all others: read when the first is empty */
    struct jv_ring *events;     /* authenticated facts */
    struct jv_ring *controls;   /* authenticated messages: a peer that floods them keeps no fact from us */
    uint32_t handshakes_waiting;
    uint32_t idle_paths;                      /* of sessions without inner traffic for 10 s */
    uint32_t paths;                           /* of all */
    uint64_t probes_full_ns, reports_full_ns; /* when these budgets are whole again */
    uint32_t probe_budget;
    bool client;
    uint8_t hash_key[16];
    uint32_t order;         /* of the next fact or message */
    struct jv_ring *peeked; /* where the event handed out by peek came from */
    uint64_t now_ns;        /* of whoever holds the lock; never goes back */
    uint64_t icmp_ns;       /* last answer to an inner sender */
    unsigned udp_wanted;    /* JV_UDP_* */
    uint32_t mtu_bytes;
    struct jv_limits limits;
    struct jv_wheel wheel;
    struct jv_lodge lodge;
    struct jv_stage stage;
    struct jv_socket sockets[JV_SOCKETS_MAX];
    struct jv_counters counters, told; /* told: the copy that a reader has */
    struct jv_hot hot;                 /* expanded keys, wiped with their owners */
    struct jv_worker own;

    /* Native workers. */
    struct jv_worker *workers;
    unsigned workers_used; /* 0 = Python's thread pumps */
    bool workers_started;
    atomic_bool stopping;
    int event_fd;
    bool news;          /* an event was put into a ring since the lock was taken */
    bool told_of_news;  /* Python has a wakeup that it has not answered */
    bool sooner;        /* a timer was armed before the one that worker 0 sleeps for */
    uint64_t asleep_ns; /* until then */
    /* One outgoing control message: header, plaintext, tag. */
    uint8_t control[JV_HEADER_BYTES + JV_FRAMES_PMTU_MAX + JV_TAG_BYTES];
};

/* A transport message that authenticated. */
struct jv_arrival {
    const struct jv_msg *msg;
    struct jv_session *session;
    struct jv_keypair *kp;
    struct jv_path *at;   /* whose address it came from, NULL = none of ours */
    struct jv_path *path; /* whose figures it counts in: the one it names, else `at` */
    uint32_t bytes;       /* of the datagram */
    uint8_t path_id;      /* that its header names, 0 = none */
    uint8_t type;         /* of the message, 4 or 5 */
    bool newest;
};

/* engine.c */
void jv_lock(struct jv_engine *e, uint64_t now_ns);
void jv_unlock(struct jv_engine *e);
static inline void jv_unlock_held(struct jv_engine **e) {
    jv_unlock(*e);
}
/* Holds the lock until the end of the block. */
#define JV_HOLD(e, now_ns)                                                                                   \
    jv_lock((e), (now_ns));                                                                                  \
    struct jv_engine *held_ __attribute__((cleanup(jv_unlock_held), unused)) = (e)
/* And makes the caller's time the engine's, which another thread may have moved on. */
#define JV_HOLD_AT(e, now_ns)                                                                                \
    JV_HOLD((e), (now_ns));                                                                                  \
    (now_ns) = (e)->now_ns

struct jv_socket *jv_engine_socket(struct jv_engine *e, int socket_id);
void jv_engine_want(struct jv_engine *e, struct jv_session *s, enum jv_wanted_reason reason);
/* Sends trains that all leave by one socket; returns how many datagrams it took. What this host itself
 * refused is told to Python. */
uint32_t jv_engine_transmit(struct jv_engine *e, int socket_id, struct jv_train *trains, size_t n);
void jv_engine_socket_failed(struct jv_engine *e, int socket_id, int error);
/* A fact about a session (NULL: none): its slot, len and data are filled in here. False when the ring was
 * full. */
bool jv_engine_report(struct jv_engine *e, const struct jv_session *s, struct jv_event facts,
                      const void *data, size_t len);
/* Whether Python has enough to do, so that a report which decides nothing is better not made. */
bool jv_engine_sheds(struct jv_engine *e);
/* Of something that may happen so often: done once more, and whether it happens too often by now. */
static inline void jv_spend(uint64_t *full_ns, uint64_t now_ns, uint64_t per_s) {
    *full_ns = (*full_ns > now_ns ? *full_ns : now_ns) + JV_NS_PER_S / per_s;
}

static inline bool jv_overspent(uint64_t full_ns, uint64_t now_ns) {
    return full_ns > now_ns + JV_BURST_NS;
}

static inline void jv_engine_publish(struct jv_engine *e, struct jv_ring *ring, uint32_t bytes) {
    jv_ring_commit(ring, bytes);
    e->news = true;
}

/* The session that owns an inner address, or JV_ROUTE_NONE. */
static inline uint32_t jv_engine_route(const struct jv_engine *e, uint8_t version, const uint8_t *address) {
    return version == 4 ? jv_route_lookup4(e->routes, address) : jv_route_lookup6(e->routes, address);
}

/* worker.c */
int jv_worker_init(struct jv_worker *w, struct jv_engine *e, unsigned number, bool pumps) JV_WARN_UNUSED;
void jv_worker_free(struct jv_worker *w);
/* What it has counted is the engine's. */
void jv_worker_fold(struct jv_worker *w);
static inline struct jv_worker *jv_worker_of(struct jv_engine *e, unsigned number) {
    return e->workers_used ? &e->workers[number] : &e->own;
}
/* Descriptors that a running worker is to watch, or not any more. */
void jv_workers_watch(struct jv_engine *e, int socket_id);
void jv_workers_unwatch(struct jv_engine *e, int socket_id);
/* Returns when no worker uses what was removed under the lock before. Without the lock. */
void jv_workers_pass(struct jv_engine *e);
void jv_worker_wake(struct jv_worker *w);

/* rx.c */
int jv_pump_udp(struct jv_worker *w, int socket_id, uint64_t now_ns);

/* arrival.c */
struct jv_keypair *jv_rx_key(struct jv_engine *e, const uint8_t *datagram, struct jv_session **session);
/* Finds out whose address it came from. */
void jv_rx_locate(struct jv_arrival *a);
/* Its path counts it. */
void jv_rx_count(const struct jv_arrival *a);
bool jv_rx_fresh(struct jv_engine *e, struct jv_replay *window, uint64_t counter);
/* What a new authenticated message means for keys, addresses and timers. */
void jv_rx_accept(struct jv_engine *e, struct jv_arrival *a, bool data);
void jv_rx_new_address(struct jv_engine *e, const struct jv_arrival *a, unsigned flags);
/* Data whose tag has verified: replay window, what it means, and whether its inner packet may pass. */
bool jv_rx_data(struct jv_engine *e, struct jv_arrival *a, const struct jv_job *job);

/* control.c */
void jv_control_rx(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len);
/* The header is authenticated: the message counts for the path it names. */
void jv_control_credit(struct jv_arrival *a);
/* Plaintext that begins with the mark. */
void jv_control_message(struct jv_engine *e, const struct jv_arrival *a, const uint8_t *plain, uint32_t len);
/* Where the plaintext of the next control message goes. */
static inline uint8_t *jv_control_plain(struct jv_engine *e) {
    return e->control + JV_HEADER_BYTES;
}
/* Seals and sends it. path: whose figures count it, NULL = none. 0, or -EAGAIN when the socket refused. */
int jv_control_send(struct jv_engine *e, struct jv_session *s, struct jv_keypair *kp, struct jv_path *path,
                    const struct jv_endpoint *to, size_t len);
/* The keypair control messages are sealed with, or NULL. */
struct jv_keypair *jv_control_key(const struct jv_engine *e, const struct jv_session *s);

/* probe.c */
static inline size_t jv_control_datagram(size_t plain_bytes) {
    return JV_HEADER_BYTES + plain_bytes + JV_TAG_BYTES;
}
void jv_paths_sent(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint64_t packets,
                   uint64_t bytes, bool data);
void jv_paths_active(struct jv_engine *e, struct jv_session *s);
void jv_paths_run(struct jv_engine *e, struct jv_session *s);
void jv_paths_arm(struct jv_engine *e, struct jv_session *s);
/* The session is a stock one again, or none. */
void jv_paths_close(struct jv_engine *e, struct jv_session *s);
void jv_paths_uncount(struct jv_engine *e, struct jv_session *s);
/* How often this path is probed now. */
uint64_t jv_probe_interval(const struct jv_engine *e, const struct jv_paths *p, const struct jv_path *path);
uint64_t jv_paths_idle_interval(const struct jv_engine *e);
void jv_probe_answer(struct jv_engine *e, const struct jv_arrival *a, const struct jv_probe *probe);
void jv_probe_answered(struct jv_engine *e, const struct jv_arrival *a, const struct jv_probe_ack *ack);
void jv_probe_binding(struct jv_engine *e, const struct jv_arrival *a, uint64_t epoch, uint8_t path_id);
void jv_probe_fill(const struct jv_paths *p, const struct jv_path *path, size_t datagram_bytes,
                   struct jv_probe *out);

/* suite.c: data under a suite of our own. The key that opens a datagram, NULL and a counter if none does. */
struct jv_aead_key *jv_suite_key(struct jv_engine *e, struct jv_keypair *kp, const uint8_t *datagram,
                                 uint32_t len);
/* How many packets a keypair may seal under its suite. */
uint64_t jv_suite_packets_max(const struct jv_keypair *kp) JV_PURE;
/* Of the data it seals; NULL: of type 4. */
size_t jv_suite_tag_bytes(const struct jv_keypair *kp) JV_PURE;

/* window.c: once in a while, beside the probes. */
void jv_window_look(struct jv_engine *e, const struct jv_session *s);

/* pmtu.c */
void jv_pmtu_search(struct jv_engine *e, struct jv_session *s); /* of a path that wants it, unless one runs */
void jv_pmtu_run(struct jv_engine *e, struct jv_session *s);
bool jv_pmtu_answered(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint64_t seq);

/* extra.c: a train of `s` that went to its endpoint, once more to where it is duplicated or copied. */
void jv_extra_train(struct jv_engine *e, struct jv_session *s, const struct jv_train *train);

/* sink.c: packets for the TUN, written at the end of the burst. The data stays where it is until the flush,
 * which writes into it, and JV_SINK_HEADROOM before it. */
#define JV_SINK_HEADROOM sizeof(struct jv_vnet)
void jv_sink_add(struct jv_worker *w, uint8_t *packet, const struct jv_ip *ip);
void jv_sink_flush(struct jv_worker *w);
/* One packet at once, beside the burst. */
void jv_sink_write(struct jv_worker *w, uint8_t *packet, uint32_t len);

/* tx.c */
int jv_tx_init(struct jv_worker *w, uint32_t mtu_bytes) JV_WARN_UNUSED;
void jv_tx_free(struct jv_worker *w);
/* Seals packet[0..len) under the worker's grant, and queues it. */
void jv_tx_seal(struct jv_worker *w, uint8_t *packet, uint32_t len);
/* Sends what is queued; jv_tx_settle follows, or jv_tx_reset if nothing is notable. */
void jv_tx_send(struct jv_worker *w);
void jv_tx_reset(struct jv_worker *w);
int jv_pump_tun(struct jv_worker *w, uint64_t now_ns);

/* grant.c: what may leave. */
struct jv_sizes {
    uint32_t packets, each_bytes, last_bytes; /* of the plain packets: all but the last are equal */
};
/* False: none leaves now, the key is missing or used up, or there is no address. */
bool jv_grant_ready(const struct jv_engine *e, const struct jv_session *s, uint32_t packets);
/* Takes counters for all of them and accounts for them as sent. */
void jv_grant_take(struct jv_engine *e, struct jv_session *s, struct jv_sizes sizes, unsigned worker,
                   struct jv_grant *g);
/* Where a packet that was read goes. True: w's grant holds for it. False: it was refused or waits. */
bool jv_grant_packet(struct jv_engine *e, struct jv_worker *w, const struct jv_ip *ip);
/* What came of the trains of w; those that go elsewhere too are sent there. */
void jv_tx_settle(struct jv_engine *e, struct jv_worker *w);
void jv_tx_keepalive(struct jv_engine *e, struct jv_session *s);
void jv_tx_staged(struct jv_engine *e, struct jv_session *s);
bool jv_tx_usable(const struct jv_engine *e, const struct jv_keypair *kp);
/* Messages were sealed under kp: timers, totals, and whether it is time for a new key. */
void jv_tx_sealed(struct jv_engine *e, struct jv_session *s, const struct jv_keypair *kp, uint32_t packets,
                  uint64_t bytes, bool data);
/* Plaintext is padded to 16 bytes but never beyond the MTU (whitepaper §5.4.6). */
static inline uint32_t jv_tx_padded(uint32_t mtu_bytes, uint32_t len) {
    const uint32_t full = (len + 15) & ~15u;
    return full > mtu_bytes && len <= mtu_bytes ? mtu_bytes : full;
}

/* clock.c */
void jv_clock_run(struct jv_engine *e, uint32_t sessions_max);
void jv_clock_arm(struct jv_engine *e, struct jv_session *s);
void jv_clock_sent(struct jv_engine *e, struct jv_session *s, bool data);
void jv_clock_received(struct jv_engine *e, struct jv_session *s, bool data);
void jv_clock_installed(struct jv_engine *e, struct jv_session *s);

/* stage.c */
int jv_stage_init(struct jv_stage *st, uint32_t packet_bytes) JV_WARN_UNUSED;
void jv_stage_free(struct jv_stage *st);
void jv_stage_put(struct jv_stage *st, struct jv_session *s, const uint8_t *packet, uint32_t len,
                  struct jv_counters *ctr);
/* Copies the oldest waiting packet to `packet` and returns its length; 0 when none waits. */
uint32_t jv_stage_take(struct jv_stage *st, struct jv_session *s, uint8_t *packet);
void jv_stage_drop(struct jv_stage *st, struct jv_session *s, struct jv_counters *ctr);

#endif
