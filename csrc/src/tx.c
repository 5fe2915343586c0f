/* SPDX-License-Identifier: Apache-2.0 */
/* Outwards: TUN -> UDP. Route by inner destination, take a counter, seal in place, and hand all trains of the
 * wakeup to one send. Packets are read directly behind the datagram sealed before them, so that equal ones of
 * one session lie as a train without a copy.
 *
 * A packet without a usable key waits in the stage and asks for a handshake once. */
#include "engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Header, padding to 16 and tag around one packet. */
#define AROUND_BYTES (JV_HEADER_BYTES + 16 + JV_TAG_BYTES)

int jv_tx_init(struct jv_engine *e, uint32_t mtu_bytes) {
    const uint32_t bytes = JV_TX_PACKETS * (mtu_bytes + AROUND_BYTES);
    uint8_t *arena = malloc(bytes);
    if (!arena)
        return -ENOMEM;
    free(e->tx.arena);
    e->tx.arena = arena;
    e->tx.arena_bytes = bytes;
    e->tx.used_bytes = e->tx.trains = 0;
    e->mtu_bytes = mtu_bytes;
    return jv_stage_init(&e->stage, mtu_bytes);
}

/* The kernel chooses the source address from now on. */
static void forget_local(struct jv_endpoint *e) {
    memset(&e->local, 0, sizeof e->local);
    e->local_ifindex = 0;
}

/* What came of the trains that went out together through one socket. */
static void learn(struct jv_engine *e, uint32_t first, uint32_t n) {
    for (uint32_t i = first; i < first + n; i++) {
        if (e->tx.train[i].flags & JV_TRAIN_GSO_FAILED)
            e->tx.owner[i]->no_gso = true;
        if (e->tx.train[i].flags & JV_TRAIN_LOCAL_STALE)
            forget_local(&e->tx.owner[i]->endpoint);
    }
}

/* After their first sending, so that a copy never goes ahead of the packet. */
static void send_extra(struct jv_engine *e) {
    for (uint32_t i = 0; i < e->tx.trains; i++) {
        struct jv_session *s = e->tx.owner[i];
        if (s->paths && jv_unlikely(e->now_ns < s->paths->extra_until_ns))
            jv_extra_train(e, s, &e->tx.train[i]);
    }
}

void jv_tx_flush(struct jv_engine *e) {
    for (uint32_t first = 0, n; first < e->tx.trains; first += n) {
        const uint16_t id = e->tx.train[first].to->socket;
        for (n = 1; first + n < e->tx.trains && e->tx.train[first + n].to->socket == id;)
            n++;
        (void)jv_engine_transmit(e, id, e->tx.train + first, n);
        learn(e, first, n);
    }
    send_extra(e);
    e->tx.trains = e->tx.used_bytes = 0;
}

/* Where the next packet is put; sends what is there when it would not fit. */
static uint8_t *next_packet(struct jv_engine *e) {
    if (e->tx.trains == JV_TX_PACKETS || e->tx.used_bytes + e->mtu_bytes + AROUND_BYTES > e->tx.arena_bytes)
        jv_tx_flush(e);
    return e->tx.arena + e->tx.used_bytes + JV_HEADER_BYTES;
}

static bool extends(const struct jv_train *t, const struct jv_session *owner, const struct jv_session *s,
                    uint32_t bytes) {
    return owner == s && !s->no_gso && bytes <= t->segment_bytes && t->len % t->segment_bytes == 0 &&
           t->len / t->segment_bytes < JV_TRAIN_SEGMENTS_MAX && t->len + bytes <= JV_TRAIN_BYTES_MAX;
}

static void queue(struct jv_engine *e, struct jv_session *s, const uint8_t *datagram, uint32_t bytes) {
    struct jv_tx *tx = &e->tx;
    tx->used_bytes += bytes;
    if (tx->trains > 0 && extends(&tx->train[tx->trains - 1], tx->owner[tx->trains - 1], s, bytes)) {
        tx->train[tx->trains - 1].len += bytes;
        return;
    }
    tx->owner[tx->trains] = s;
    tx->train[tx->trains++] = (struct jv_train){
        .data = datagram,
        .len = bytes,
        .segment_bytes = (uint16_t)bytes,
        .flags = s->no_gso ? JV_TRAIN_NO_GSO : 0,
        .to = &s->endpoint,
    };
}

/* Data and control count together (protocol.md §3). */
static uint64_t sealed(const struct jv_keypair *kp) {
    return kp->send_counter + (kp->control ? kp->control->send_counter : 0);
}

bool jv_tx_usable(const struct jv_engine *e, const struct jv_keypair *kp) {
    return kp && e->now_ns - kp->birth_ns < e->limits.reject_after_ns &&
           sealed(kp) < e->limits.reject_after_messages;
}

static bool rekey_on_send(const struct jv_engine *e, const struct jv_keypair *kp) {
    return sealed(kp) >= e->limits.rekey_after_messages ||
           (kp->initiator && e->now_ns - kp->birth_ns >= e->limits.rekey_after_ns);
}

static uint32_t path_mtu(const struct jv_engine *e, const struct jv_session *s) {
    const struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    const uint32_t own = path ? path->mtu_bytes : 0;
    return own && own < e->mtu_bytes ? own : e->mtu_bytes;
}

/* Plaintext is padded to 16 bytes but never beyond the MTU (whitepaper §5.4.6). */
static uint32_t padded(uint32_t mtu_bytes, uint32_t len) {
    const uint32_t full = (len + 15) & ~15u;
    return full > mtu_bytes && len <= mtu_bytes ? mtu_bytes : full;
}

void jv_tx_sealed(struct jv_engine *e, struct jv_session *s, const struct jv_keypair *kp, uint64_t bytes,
                  bool data) {
    s->tx_packets++;
    s->tx_bytes += bytes;
    jv_clock_sent(e, s, data);
    if (kp == s->current && rekey_on_send(e, kp))
        jv_engine_want(e, s, JV_WANTED_REKEY);
}

/* Seals packet[0..len) where it stands and queues it. The counter is spent whatever happens next. */
static void seal(struct jv_engine *e, struct jv_session *s, uint8_t *packet, uint32_t len) {
    struct jv_keypair *kp = s->current;
    struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    const uint32_t full = padded(path_mtu(e, s), len);
    uint8_t *header = packet - JV_HEADER_BYTES;
    memset(packet + len, 0, full - len);
    jv_put_le32(header, JV_TYPE_TRANSPORT);
    jv_put_le32(header + 4, kp->remote_index);
    jv_put_le64(header + 8, kp->send_counter);
    jv_aead_seal(&kp->send, kp->send_counter++, NULL, 0, packet, full, packet);
    const uint32_t bytes = JV_HEADER_BYTES + full + JV_TAG_BYTES;
    queue(e, s, header, bytes);
    if (path)
        jv_paths_sent(e, s, path, 1, bytes, len > 0);
    jv_tx_sealed(e, s, kp, bytes, len > 0);
}

static bool ready(const struct jv_engine *e, const struct jv_session *s) {
    return jv_tx_usable(e, s->current) && s->endpoint.remote.family != AF_UNSPEC;
}

/* Something waits: for a handshake, or only for a greeting or for the core to bind a path. */
static void ask_for_key(struct jv_engine *e, struct jv_session *s) {
    if (s->mute && jv_tx_usable(e, s->current))
        return;
    if (!s->paths || s->paths->used == 0 || !jv_tx_usable(e, s->current))
        jv_engine_want(e, s, JV_WANTED_NO_KEY);
}

void jv_tx_keepalive(struct jv_engine *e, struct jv_session *s) {
    if (!e->tx.arena)
        return;
    if (!ready(e, s)) {
        ask_for_key(e, s);
        return;
    }
    seal(e, s, next_packet(e), 0);
    jv_tx_flush(e);
}

void jv_tx_staged(struct jv_engine *e, struct jv_session *s) {
    while (s->stage_count > 0 && !s->mute && ready(e, s)) {
        uint8_t *packet = next_packet(e);
        const uint32_t len = jv_stage_take(&e->stage, s, packet);
        seal(e, s, packet, len);
    }
    jv_tx_flush(e);
}

/* Tells the inner sender why not, as a router would; the answer goes back into the TUN. */
static void refuse(struct jv_engine *e, enum jv_icmp_kind kind, const struct jv_ip *ip, const uint8_t *packet,
                   uint32_t mtu_bytes) {
    uint8_t reply[JV_ICMP_BYTES_MAX];
    if (e->now_ns - e->icmp_ns < JV_ICMP_INTERVAL_NS) {
        jv_count(&e->counters, JV_CTR_ICMP_LIMITED);
        return;
    }
    const size_t n = jv_icmp_reply(kind, packet, ip->total_bytes, mtu_bytes, reply);
    if (n == 0)
        return;
    e->icmp_ns = e->now_ns;
    jv_count(&e->counters, JV_CTR_ICMP_SENT);
    jv_sink_add(e, reply, (uint32_t)n);
    jv_sink_flush(e);
}

/* IPv4 without DF may be fragmented, and outside the tunnel it is (RFC 791 §2.3); IPv6 carries 1280 bytes
 * whatever the link below does (RFC 8200 §5). */
static bool fits(const struct jv_engine *e, const struct jv_session *s, const struct jv_ip *ip,
                 const uint8_t *packet) {
    const uint32_t mtu_bytes = path_mtu(e, s);
    if (ip->total_bytes <= mtu_bytes)
        return true;
    return ip->version == 4 ? !(packet[6] & 0x40) : ip->total_bytes <= 1280;
}

static void tx_packet(struct jv_engine *e, uint8_t *packet, uint32_t len) {
    struct jv_ip ip;
    if (jv_ip_parse(packet, len, &ip) != JV_IP_OK) {
        jv_count(&e->counters, JV_CTR_DROP_TUN_PACKET);
        return;
    }
    struct jv_session *s = jv_table_get(e->table, jv_engine_route(e, ip.version, ip.dst));
    if (!s) {
        jv_count(&e->counters, JV_CTR_DROP_NO_ROUTE);
        refuse(e, JV_ICMP_HOST_UNREACH, &ip, packet, 0);
        return;
    }
    if (s->paths)
        jv_paths_active(e, s);
    if (!fits(e, s, &ip, packet)) {
        jv_count(&e->counters, JV_CTR_DROP_MTU);
        refuse(e, JV_ICMP_TOO_BIG, &ip, packet, path_mtu(e, s));
        return;
    }
    if (!s->mute && ready(e, s)) {
        seal(e, s, packet, ip.total_bytes);
        return;
    }
    jv_stage_put(&e->stage, s, packet, ip.total_bytes, &e->counters);
    ask_for_key(e, s);
}

int jv_engine_pump_tun(struct jv_engine *e, uint64_t now_ns) {
    int taken = 0;
    ssize_t len = 0;
    if (!e->tx.arena)
        return -EBADF;
    e->now_ns = now_ns;
    for (; taken < (int)JV_TX_PACKETS; taken++) {
        uint8_t *packet = next_packet(e);
        len = read(e->tun_fd, packet, e->mtu_bytes);
        if (len < 0)
            break;
        jv_count(&e->counters, JV_CTR_TUN_RX_PACKETS);
        jv_count_add(&e->counters, JV_CTR_TUN_RX_BYTES, (uint64_t)len);
        tx_packet(e, packet, (uint32_t)len);
    }
    const int error = len < 0 ? errno : 0;
    jv_tx_flush(e);
    return error && error != EAGAIN && error != EINTR ? -error : taken;
}
