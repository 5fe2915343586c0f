/* SPDX-License-Identifier: Apache-2.0
 *
 * What rx.c, tx.c, clock.c, stage.c and sink.c share: the engine's parts and the calls between them.
 * Not installed; the outside sees jv/engine.h only.
 */
#ifndef JV_ENGINE_INTERNAL_H
#define JV_ENGINE_INTERNAL_H

#include "jv/burst.h"
#include "jv/engine.h"
#include "jv/packet.h"
#include "jv/ring.h"
#include "jv/route.h"
#include "jv/session.h"

#define JV_NS_PER_S           1000000000ull
#define JV_HEADER_BYTES       16u
#define JV_TAG_BYTES          16u
#define JV_TYPE_TRANSPORT     4u
#define JV_MIN_DATAGRAM_BYTES 32u /* a keepalive; every other message is longer */

#define JV_SOCKETS_MAX          16
#define JV_TX_PACKETS           64u /* per pump: about 0.1 ms of ChaCha20-Poly1305 at 1420 bytes */
#define JV_RX_DATAGRAMS         64u
#define JV_SINK_PACKETS         64u
#define JV_TICK_SESSIONS        1024u  /* sessions looked at per tick: below 1 ms */
#define JV_STAGE_PACKETS        1024u  /* waiting packets of all sessions */
#define JV_STAGE_PER_SESSION    64u    /* one session may not take the pool */
#define JV_RING_HANDSHAKE_BYTES 65536u /* some 250 initiations: 60 ms of Python's work */
#define JV_RING_EVENT_BYTES     262144u
#define JV_NOTICE_INTERVAL_NS   (JV_NS_PER_S / 10) /* session.md: new-address notices 10/s per session */
#define JV_ICMP_INTERVAL_NS     (JV_NS_PER_S / 100)

struct jv_socket {
    int fd; /* -1 = free */
    int family;
    unsigned features; /* JV_UDP_* */
};

struct jv_stage {
    uint8_t *arena;
    uint32_t packet_bytes;
    uint16_t free_head;
    uint16_t next[JV_STAGE_PACKETS];
    uint32_t len[JV_STAGE_PACKETS];
};

/* Packets are sealed one behind the other, so equal ones of one session are a train without a copy. */
struct jv_tx {
    uint8_t *arena;
    uint32_t arena_bytes;
    uint32_t used_bytes; /* sealed; the next packet is read JV_HEADER_BYTES behind */
    uint32_t trains;
    struct jv_train train[JV_TX_PACKETS];
    struct jv_session *owner[JV_TX_PACKETS]; /* of each train, valid until the flush */
};

struct jv_sink {
    struct {
        const uint8_t *packet;
        uint32_t len;
    } packets[JV_SINK_PACKETS];
    uint32_t used;
};

struct jv_engine {
    struct jv_table *table;
    struct jv_routes *routes;
    struct jv_burst *burst;
    struct jv_sender *sender;
    struct jv_ring *handshakes; /* unauthenticated */
    struct jv_ring *events;     /* authenticated */
    uint32_t handshakes_waiting;
    struct jv_ring *peeked;        /* where the event handed out by peek came from */
    uint64_t now_ns;               /* of the pump or tick that runs */
    uint64_t icmp_ns;              /* last answer to an inner sender */
    uint8_t inner4[4], inner6[16]; /* our addresses inside the tunnel, the source of such answers */
    int tun_fd;
    uint32_t mtu_bytes;
    struct jv_limits limits;
    struct jv_wheel wheel;
    struct jv_tx tx;
    struct jv_sink sink;
    struct jv_stage stage;
    struct jv_socket sockets[JV_SOCKETS_MAX];
    struct jv_counters counters;
};

/* engine.c */
struct jv_socket *jv_engine_socket(struct jv_engine *e, int socket_id);
void jv_engine_want(struct jv_engine *e, struct jv_session *s, enum jv_wanted_reason reason);
void jv_engine_emit(struct jv_engine *e, const struct jv_session *s, enum jv_event_kind kind, uint16_t reason,
                    const struct jv_msg *msg, uint64_t value);

/* The session that owns an inner address, or JV_ROUTE_NONE. */
static inline uint32_t jv_engine_route(const struct jv_engine *e, uint8_t version, const uint8_t *address) {
    return version == 4 ? jv_route_lookup4(e->routes, address) : jv_route_lookup6(e->routes, address);
}

/* sink.c: packets for the TUN, written at the end of the burst. The data stays where it is until the flush.
 */
void jv_sink_add(struct jv_engine *e, const uint8_t *packet, uint32_t len);
void jv_sink_flush(struct jv_engine *e);

/* tx.c */
int jv_tx_init(struct jv_engine *e, uint32_t mtu_bytes) JV_WARN_UNUSED;
void jv_tx_keepalive(struct jv_engine *e, struct jv_session *s);
void jv_tx_staged(struct jv_engine *e, struct jv_session *s);
void jv_tx_flush(struct jv_engine *e);

/* clock.c */
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
