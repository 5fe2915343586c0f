/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever a burst holds, its groups taken apart again are the packets that were added, each once,
 * those of one flow in their order; but for the identification beside DF, which means nothing. */
#include "jv/coalesce.h"
#include "jv/split.h"

#include "../test/inner.h"
#include "fuzz.h"

#define PACKETS_MAX 48
#define BYTES_MAX   512

static struct jv_coalesce burst;
static uint8_t packet[PACKETS_MAX][BYTES_MAX], before[PACKETS_MAX][BYTES_MAX];
static size_t bytes_of[PACKETS_MAX];
static bool seen[PACKETS_MAX];
static unsigned n;

/* One of eight flows, which go on where they were unless the tape wants otherwise; then perhaps a byte wrong.
 */
static void add_packet(struct tape *t, struct inner *flows) {
    static const uint8_t payload[256];
    const uint8_t what = take8(t), more = take8(t);
    struct inner *x = &flows[what % 8];
    struct jv_ip ip;
    x->payload = payload;
    x->payload_bytes = what & 0x20 ? more : 100;
    x->flags = what & 0x40 && more < 8 ? take8(t) : INNER_ACK;
    bytes_of[n] = inner_make(x, packet[n], false);
    x->seq += (uint32_t)x->payload_bytes;
    x->id++;
    if (what & 0x80 && more & 1)
        packet[n][take8(t) % bytes_of[n]] ^= (uint8_t)(1u << take8(t) % 8);
    if (jv_ip_parse(packet[n], bytes_of[n], &ip) != JV_IP_OK)
        return;
    bytes_of[n] = ip.total_bytes;
    memcpy(before[n], packet[n], bytes_of[n]);
    seen[n] = false;
    jv_coalesce_add(&burst, packet[n], &ip);
    n++;
}

static void forget_id(uint8_t *p) {
    if (p[0] >> 4 == 4 && p[6] & 0x40) {
        memset(p + 4, 0, 2);
        memset(p + 10, 0, 2);
    }
}

static bool same_flow(const uint8_t *a, const uint8_t *b) {
    if ((a[0] ^ b[0]) & 0xf0)
        return false;
    if (a[0] >> 4 == 6)
        return a[6] == b[6] && memcmp(a + 8, b + 8, 36) == 0;
    return a[9] == b[9] && memcmp(a + 12, b + 12, 12) == 0;
}

static void find(uint8_t *segment, uint32_t bytes) {
    for (unsigned i = 0; i < n; i++) {
        uint8_t copy[BYTES_MAX];
        if (seen[i])
            continue;
        memcpy(copy, before[i], bytes_of[i]);
        forget_id(copy);
        forget_id(segment);
        if (bytes == bytes_of[i] && memcmp(copy, segment, bytes) == 0) {
            seen[i] = true;
            return;
        }
        MUST(!same_flow(before[i], segment)); /* one of its own flow waits: it was overtaken, or changed */
    }
    MUST(!"a packet that nobody sent");
}

static void check_group(unsigned i) {
    static uint8_t flat[65536];
    struct iovec iov[JV_COALESCE_IOV_MAX];
    struct jv_vnet vnet;
    struct jv_split s;
    struct jv_ip ip;
    size_t total = 0;
    uint32_t bytes;
    uint8_t *segment;
    const int pieces = jv_coalesce_take(&burst, i, &vnet, iov);
    MUST(pieces >= 1 && pieces <= (int)JV_COALESCE_IOV_MAX);
    for (int k = 0; k < pieces; total += iov[k++].iov_len) {
        MUST(total + iov[k].iov_len <= 65535);
        memcpy(flat + total, iov[k].iov_base, iov[k].iov_len);
    }
    MUST(total == burst.group[i].total_bytes && jv_ip_parse(flat, total, &ip) == JV_IP_OK);
    MUST(jv_split_begin(&s, &vnet, flat, &ip) == 0 && s.segments == burst.group[i].merged);
    while ((segment = jv_split_next(&s, &bytes)) != NULL) {
        uint8_t copy[BYTES_MAX] = {0};
        MUST(bytes <= BYTES_MAX);
        memcpy(copy, segment, bytes);
        find(copy, bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct inner flows[8];
    struct tape t = {data, size};
    n = 0;
    for (uint8_t i = 0; i < 8; i++)
        flows[i] = (struct inner){.version = i & 1 ? 6 : 4,
                                  .proto = i & 2 ? INNER_UDP : INNER_TCP,
                                  .from = 1,
                                  .to = 2,
                                  .ttl = 64,
                                  .df = i & 4,
                                  .sport = i,
                                  .ack = 5,
                                  .options = i & 4 ? 3 : 0};
    jv_coalesce_reset(&burst, take8(&t) & 1 ? ~0u : JV_TUN_VNET | JV_TUN_TSO4 | JV_TUN_TSO6);
    while (t.left > 0 && n < PACKETS_MAX)
        add_packet(&t, flows);
    for (unsigned i = 0; i < burst.groups_used; i++)
        check_group(i);
    for (unsigned i = 0; i < n; i++)
        MUST(seen[i]);
    return 0;
}
