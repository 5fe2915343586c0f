/* SPDX-License-Identifier: Apache-2.0 */
/* Outwards: TUN -> UDP. Read, split super-packets where they were read, ask for a grant (grant.c: route, key,
 * counters, address), seal behind the datagram sealed before, so that equal ones of one session lie as a
 * train without a copy, and hand all trains of the wakeup to one send. */
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

int jv_tx_init(struct jv_worker *w, uint32_t mtu_bytes) {
    const uint32_t singles = JV_TX_PACKETS * (mtu_bytes + AROUND_BYTES);
    const uint32_t supers = JV_TX_SUPERS * (INPUT_BYTES + JV_TRAIN_SEGMENTS_MAX * AROUND_BYTES);
    const uint32_t arena_bytes = singles > supers ? singles : supers;
    uint8_t *arena = malloc(arena_bytes), *input = malloc(INPUT_BEFORE + INPUT_BYTES + PADDING_MAX);
    if (!arena || !input) {
        free(arena);
        free(input);
        return -ENOMEM;
    }
    jv_tx_free(w);
    w->tx.arena = arena;
    w->tx.input = input + INPUT_BEFORE;
    w->tx.arena_bytes = arena_bytes;
    w->mtu_bytes = mtu_bytes;
    jv_tx_reset(w);
    return 0;
}

void jv_tx_free(struct jv_worker *w) {
    free(w->tx.arena);
    if (w->tx.input)
        free(w->tx.input - INPUT_BEFORE);
    w->tx.arena = w->tx.input = NULL;
}

/* --- sending
 * ---------------------------------------------------------------------------------------------------- */

void jv_tx_reset(struct jv_worker *w) {
    w->tx.trains = w->tx.used_bytes = 0;
    w->tx.notable = false;
}

static void send_by(struct jv_worker *w, int fd, struct jv_train *trains, uint32_t n) {
    if (fd < 0) {
        jv_count_add(&w->counters, JV_CTR_DROP_NO_ENDPOINT, n);
        return;
    }
    (void)jv_sender_send(w->sender, fd, trains, n, &w->counters);
    for (uint32_t i = 0; i < n; i++)
        w->tx.notable |= trains[i].error || trains[i].flags & (JV_TRAIN_GSO_FAILED | JV_TRAIN_LOCAL_STALE);
}

void jv_tx_send(struct jv_worker *w) {
    const struct jv_tx *tx = &w->tx;
    for (uint32_t first = 0, n; first < tx->trains; first += n) {
        const int fd = tx->sent[first].fd;
        for (n = 1; first + n < tx->trains && tx->sent[first + n].fd == fd;)
            n++;
        send_by(w, fd, w->tx.train + first, n);
    }
}

static void flush(struct jv_worker *w) {
    jv_tx_send(w);
    if (jv_unlikely(w->tx.notable)) {
        JV_HOLD(w->e, w->now_ns);
        jv_tx_settle(w->e, w);
    }
    jv_tx_reset(w);
}

/* --- sealing
 * ---------------------------------------------------------------------------------------------------- */

/* Where the next datagram is put; sends what is there when it would not fit. */
static uint8_t *next_datagram(struct jv_worker *w) {
    if (w->tx.trains == JV_TX_PACKETS || w->tx.used_bytes + w->mtu_bytes + AROUND_BYTES > w->tx.arena_bytes)
        flush(w);
    return w->tx.arena + w->tx.used_bytes;
}

/* A grant holds for the packets of one read; the next read may be of another session, key or address. */
static bool same_flow(const struct jv_tx *tx, uint32_t last) {
    const struct jv_grant *g = &tx->grant;
    const struct jv_sent *sent = &tx->sent[last];
    return g->begun || (sent->local_index == g->local_index && sent->slot == g->slot && sent->fd == g->fd &&
                        jv_endpoint_same_path(&tx->to[last], &g->to));
}

static bool extends(const struct jv_tx *tx, uint32_t last, uint32_t bytes) {
    const struct jv_train *t = &tx->train[last];
    return !tx->grant.no_gso && bytes <= t->segment_bytes && t->len % t->segment_bytes == 0 &&
           t->len / t->segment_bytes < JV_TRAIN_SEGMENTS_MAX && t->len + bytes <= JV_TRAIN_BYTES_MAX &&
           same_flow(tx, last);
}

static void queue(struct jv_worker *w, const uint8_t *datagram, uint32_t bytes) {
    struct jv_tx *tx = &w->tx;
    struct jv_grant *g = &tx->grant;
    const uint32_t i = tx->trains;
    tx->used_bytes += bytes;
    tx->notable |= g->extra;
    if (i > 0 && extends(tx, i - 1, bytes)) {
        tx->train[i - 1].len += bytes;
        g->begun = true;
        return;
    }
    g->begun = true;
    tx->trains++;
    tx->to[i] = g->to;
    tx->sent[i] = (struct jv_sent){.slot = g->slot, .local_index = g->local_index, .fd = g->fd};
    tx->train[i] = (struct jv_train){
        .data = datagram,
        .len = bytes,
        .segment_bytes = (uint16_t)bytes,
        .flags = g->no_gso ? JV_TRAIN_NO_GSO : 0,
        .to = &tx->to[i],
    };
}

/* Type 4 has no associated data (whitepaper §5.4.6), type 5 its whole header (protocol.md §3). */
static uint32_t seal(struct jv_grant *g, const uint8_t *plain, uint32_t len, uint8_t *header) {
    const uint64_t counter = g->counter++;
    jv_put_le32(header, JV_TYPE_TRANSPORT);
    if (g->suite) {
        header[0] = JV_TYPE_JUMP;
        header[1] = g->suite;
        header[2] = g->path_id;
    }
    jv_put_le32(header + 4, g->remote_index);
    jv_put_le64(header + 8, counter);
    jv_aead_seal(&g->key.key, counter, g->suite ? header : NULL, g->suite ? JV_HEADER_BYTES : 0, plain, len,
                 header + JV_HEADER_BYTES);
    return JV_HEADER_BYTES + len + (uint32_t)jv_aead_tag_bytes(g->key.key.suite);
}

/* What lies behind the packet, where its padding goes, may be the next segment and is put back. */
void jv_tx_seal(struct jv_worker *w, uint8_t *packet, uint32_t len) {
    struct jv_grant *g = &w->tx.grant;
    const uint32_t full = jv_tx_padded(g->mtu_bytes, len);
    uint8_t *header = next_datagram(w), behind[PADDING_MAX];
    memcpy(behind, packet + len, PADDING_MAX);
    memset(packet + len, 0, full - len);
    const uint32_t bytes = seal(g, packet, full, header);
    memcpy(packet + len, behind, PADDING_MAX);
    queue(w, header, bytes);
}

static void seal_all(struct jv_worker *w) {
    uint8_t *segment;
    uint32_t bytes;
    while ((segment = jv_split_next(&w->tx.split, &bytes)) != NULL)
        jv_tx_seal(w, segment, bytes);
}

/* --- reading
 * ---------------------------------------------------------------------------------------------------- */

static bool granted(struct jv_worker *w, const struct jv_ip *ip) {
    JV_HOLD(w->e, w->now_ns);
    return jv_grant_packet(w->e, w, ip);
}

/* Counted as the packets that it stands for. */
static void tx_read(struct jv_worker *w, const struct jv_vnet *vnet, uint32_t len) {
    struct jv_split *split = &w->tx.split;
    struct jv_ip ip;
    if (jv_ip_parse(w->tx.input, len, &ip) != JV_IP_OK ||
        jv_split_begin(split, vnet, w->tx.input, &ip) != 0 || jv_split_largest(split) > w->mtu_bytes) {
        jv_count(&w->counters, JV_CTR_TUN_RX_PACKETS);
        jv_count_add(&w->counters, JV_CTR_TUN_RX_BYTES, len);
        jv_count(&w->counters, JV_CTR_DROP_TUN_PACKET);
        return;
    }
    jv_count_add(&w->counters, JV_CTR_TUN_RX_PACKETS, split->segments);
    jv_count_add(&w->counters, JV_CTR_TUN_RX_BYTES, jv_split_bytes(split));
    jv_count_add(&w->counters, JV_CTR_TUN_RX_SUPERS, split->segments > 1);
    if (granted(w, &ip))
        seal_all(w);
}

/* Bytes of the packet, or a negative errno. */
static ssize_t read_device(struct jv_worker *w, struct jv_vnet *vnet) {
    const size_t header_bytes = w->tun_features & JV_TUN_VNET ? sizeof *vnet : 0;
    uint8_t *at = w->tx.input - header_bytes;
    const ssize_t n = read(w->tun_fd, at, header_bytes + INPUT_BYTES);
    *vnet = (struct jv_vnet){.gso_type = JV_VNET_GSO_NONE};
    if (n < 0)
        return -errno;
    if ((size_t)n < header_bytes)
        return 0;
    memcpy(vnet, at, header_bytes);
    return n - (ssize_t)header_bytes;
}

int jv_pump_tun(struct jv_worker *w, uint64_t now_ns) {
    struct jv_vnet vnet;
    uint32_t read_bytes = 0;
    ssize_t len = 0;
    int taken = 0;
    if (!w->tx.arena)
        return -EBADF;
    w->now_ns = now_ns;
    for (; taken < (int)JV_TX_PACKETS && read_bytes < PUMP_BYTES; taken++) {
        len = read_device(w, &vnet);
        if (len < 0)
            break;
        read_bytes += (uint32_t)len;
        tx_read(w, &vnet, (uint32_t)len);
    }
    flush(w);
    jv_hot_wipe(&w->tx.grant.key);
    jv_worker_fold(w);
    return len < 0 && len != -EAGAIN && len != -EINTR ? (int)len : taken;
}
