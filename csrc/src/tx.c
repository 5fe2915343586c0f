/* SPDX-License-Identifier: Apache-2.0 */
/* Outwards: TUN -> UDP. Route by inner destination, split super-packets where they were read, take a counter,
 * seal behind the datagram sealed before, so that equal ones of one session lie as a train without a copy,
 * and hand all trains of the wakeup to one send.
 *
 * A packet without a usable key waits in the stage and asks for a handshake once. */
#include "engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define PADDING_MAX 16u
/* Header, padding and tag around one packet. */
#define AROUND_BYTES (JV_HEADER_BYTES + PADDING_MAX + JV_AEAD_TAG_MAX)
#define INPUT_BYTES  65535u
#define INPUT_BEFORE 16u /* room for a struct jv_vnet, and the packet stays aligned */
/* What the kernel makes of a stream is 64 KB less headers. */
#define PUMP_BYTES (JV_TX_SUPERS * 64000u)

int jv_tx_init(struct jv_engine *e, uint32_t mtu_bytes) {
    const uint32_t singles = JV_TX_PACKETS * (mtu_bytes + AROUND_BYTES);
    const uint32_t supers = JV_TX_SUPERS * (INPUT_BYTES + JV_TRAIN_SEGMENTS_MAX * AROUND_BYTES);
    const uint32_t arena_bytes = singles > supers ? singles : supers;
    uint8_t *arena = malloc(arena_bytes), *input = malloc(INPUT_BEFORE + INPUT_BYTES + PADDING_MAX);
    if (!arena || !input) {
        free(arena);
        free(input);
        return -ENOMEM;
    }
    jv_tx_free(e);
    e->tx.arena = arena;
    e->tx.input = input + INPUT_BEFORE;
    e->tx.arena_bytes = arena_bytes;
    e->tx.used_bytes = e->tx.trains = 0;
    e->mtu_bytes = mtu_bytes;
    return jv_stage_init(&e->stage, mtu_bytes);
}

void jv_tx_free(struct jv_engine *e) {
    free(e->tx.arena);
    if (e->tx.input)
        free(e->tx.input - INPUT_BEFORE);
    e->tx.arena = e->tx.input = NULL;
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

/* Where the next datagram is put; sends what is there when it would not fit. */
static uint8_t *next_datagram(struct jv_engine *e) {
    if (e->tx.trains == JV_TX_PACKETS || e->tx.used_bytes + e->mtu_bytes + AROUND_BYTES > e->tx.arena_bytes)
        jv_tx_flush(e);
    return e->tx.arena + e->tx.used_bytes;
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
           sealed(kp) < e->limits.reject_after_messages && sealed(kp) < jv_suite_packets_max(kp);
}

static bool rekey_on_send(const struct jv_engine *e, const struct jv_keypair *kp) {
    return sealed(kp) >= e->limits.rekey_after_messages || sealed(kp) >= jv_suite_packets_max(kp) / 2 ||
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

static uint32_t seal_type4(struct jv_keypair *kp, const uint8_t *plain, uint32_t len, uint8_t *header) {
    jv_put_le32(header, JV_TYPE_TRANSPORT);
    jv_put_le32(header + 4, kp->remote_index);
    jv_put_le64(header + 8, kp->send_counter);
    jv_aead_seal(&kp->send, kp->send_counter++, NULL, 0, plain, len, header + JV_HEADER_BYTES);
    return JV_HEADER_BYTES + len + JV_TAG_BYTES;
}

/* Seals packet[0..len), at most the MTU, and queues it. The counter is spent whatever happens next. What lies
 * behind the packet, where its padding goes, may be the next segment and is put back. */
static void seal(struct jv_engine *e, struct jv_session *s, uint8_t *packet, uint32_t len) {
    struct jv_keypair *kp = s->current;
    struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    const uint32_t full = padded(path_mtu(e, s), len);
    uint8_t *header = next_datagram(e), behind[PADDING_MAX];
    memcpy(behind, packet + len, PADDING_MAX);
    memset(packet + len, 0, full - len);
    const uint32_t bytes =
        kp->seals ? jv_suite_seal(e, s, kp, packet, full, header) : seal_type4(kp, packet, full, header);
    memcpy(packet + len, behind, PADDING_MAX);
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
    seal(e, s, e->tx.input, 0);
    jv_tx_flush(e);
}

void jv_tx_staged(struct jv_engine *e, struct jv_session *s) {
    while (s->stage_count > 0 && !s->mute && ready(e, s)) {
        const uint32_t len = jv_stage_take(&e->stage, s, e->tx.input);
        seal(e, s, e->tx.input, len);
    }
    jv_tx_flush(e);
}

/* Tells the inner sender why not, as a router would; the answer goes back into the TUN and quotes the first
 * of what was to be sent. */
static void refuse(struct jv_engine *e, enum jv_icmp_kind kind, uint32_t mtu_bytes) {
    uint8_t space[JV_SINK_HEADROOM + JV_ICMP_BYTES_MAX], *reply = space + JV_SINK_HEADROOM;
    uint32_t bytes;
    if (e->now_ns - e->icmp_ns < JV_ICMP_INTERVAL_NS) {
        jv_count(&e->counters, JV_CTR_ICMP_LIMITED);
        return;
    }
    const uint8_t *packet = jv_split_next(&e->tx.split, &bytes);
    const size_t n = jv_icmp_reply(kind, packet, bytes, mtu_bytes, reply);
    if (n == 0)
        return;
    e->icmp_ns = e->now_ns;
    jv_count(&e->counters, JV_CTR_ICMP_SENT);
    jv_sink_write(e, reply, (uint32_t)n);
}

/* IPv4 without DF may be fragmented, and outside the tunnel it is (RFC 791 §2.3); IPv6 carries 1280 bytes
 * whatever the link below does (RFC 8200 §5). */
static bool fits(const struct jv_engine *e, const struct jv_session *s, const struct jv_ip *ip,
                 uint32_t bytes) {
    if (bytes <= path_mtu(e, s))
        return true;
    return ip->version == 4 ? !(e->tx.input[6] & 0x40) : bytes <= 1280;
}

/* What the session cannot seal now waits; each segment is looked at, the key may reach its limit among them.
 */
static void seal_or_stage(struct jv_engine *e, struct jv_session *s) {
    uint8_t *segment;
    uint32_t bytes;
    bool waits = false;
    while ((segment = jv_split_next(&e->tx.split, &bytes)) != NULL) {
        if (!s->mute && ready(e, s)) {
            seal(e, s, segment, bytes);
            continue;
        }
        jv_stage_put(&e->stage, s, segment, bytes, &e->counters);
        waits = true;
    }
    if (waits)
        ask_for_key(e, s);
}

/* Where e->tx.input goes: one packet, or a super-packet of one flow. */
static void tx_packet(struct jv_engine *e, const struct jv_ip *ip) {
    const struct jv_split *split = &e->tx.split;
    struct jv_session *s = jv_table_get(e->table, jv_engine_route(e, ip->version, ip->dst));
    if (!s) {
        jv_count_add(&e->counters, JV_CTR_DROP_NO_ROUTE, split->segments);
        refuse(e, JV_ICMP_HOST_UNREACH, 0);
        return;
    }
    if (s->paths)
        jv_paths_active(e, s);
    if (!fits(e, s, ip, jv_split_largest(split))) {
        jv_count_add(&e->counters, JV_CTR_DROP_MTU, split->segments);
        refuse(e, JV_ICMP_TOO_BIG, path_mtu(e, s));
        return;
    }
    seal_or_stage(e, s);
}

/* Counted as the packets that it stands for. */
static void tx_read(struct jv_engine *e, const struct jv_vnet *vnet, uint32_t len) {
    struct jv_split *split = &e->tx.split;
    struct jv_ip ip;
    if (jv_ip_parse(e->tx.input, len, &ip) != JV_IP_OK ||
        jv_split_begin(split, vnet, e->tx.input, &ip) != 0 || jv_split_largest(split) > e->mtu_bytes) {
        jv_count(&e->counters, JV_CTR_TUN_RX_PACKETS);
        jv_count_add(&e->counters, JV_CTR_TUN_RX_BYTES, len);
        jv_count(&e->counters, JV_CTR_DROP_TUN_PACKET);
        return;
    }
    jv_count_add(&e->counters, JV_CTR_TUN_RX_PACKETS, split->segments);
    jv_count_add(&e->counters, JV_CTR_TUN_RX_BYTES, jv_split_bytes(split));
    jv_count_add(&e->counters, JV_CTR_TUN_RX_SUPERS, split->segments > 1);
    tx_packet(e, &ip);
}

/* Bytes of the packet, or a negative errno. */
static ssize_t read_device(struct jv_engine *e, struct jv_vnet *vnet) {
    const size_t header_bytes = e->tun_features & JV_TUN_VNET ? sizeof *vnet : 0;
    uint8_t *at = e->tx.input - header_bytes;
    const ssize_t n = read(e->tun_fd, at, header_bytes + INPUT_BYTES);
    *vnet = (struct jv_vnet){.gso_type = JV_VNET_GSO_NONE};
    if (n < 0)
        return -errno;
    if ((size_t)n < header_bytes)
        return 0;
    memcpy(vnet, at, header_bytes);
    return n - (ssize_t)header_bytes;
}

int jv_engine_pump_tun(struct jv_engine *e, uint64_t now_ns) {
    struct jv_vnet vnet;
    uint32_t read_bytes = 0;
    ssize_t len = 0;
    int taken = 0;
    if (!e->tx.arena)
        return -EBADF;
    e->now_ns = now_ns;
    for (; taken < (int)JV_TX_PACKETS && read_bytes < PUMP_BYTES; taken++) {
        len = read_device(e, &vnet);
        if (len < 0)
            break;
        read_bytes += (uint32_t)len;
        tx_read(e, &vnet, (uint32_t)len);
    }
    jv_tx_flush(e);
    return len < 0 && len != -EAGAIN && len != -EINTR ? (int)len : taken;
}
