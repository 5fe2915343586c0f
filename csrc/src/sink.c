/* SPDX-License-Identifier: Apache-2.0 */
/* Packets on their way into the TUN device. Gathered during a burst and written at its end, so that runs of
 * one flow can leave as one super-packet. */
#include "engine_internal.h"

#include <errno.h>
#include <unistd.h>

void jv_sink_add(struct jv_engine *e, const uint8_t *packet, uint32_t len) {
    struct jv_sink *sink = &e->sink;
    if (sink->used == JV_SINK_PACKETS)
        jv_sink_flush(e);
    sink->packets[sink->used].packet = packet;
    sink->packets[sink->used].len = len;
    sink->used++;
}

static void write_packet(struct jv_engine *e, const uint8_t *packet, uint32_t len) {
    ssize_t n;
    do
        n = write(e->tun_fd, packet, len);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)len) {
        jv_count(&e->counters, JV_CTR_DROP_TUN_WRITE);
        return;
    }
    jv_count(&e->counters, JV_CTR_TUN_TX_PACKETS);
    jv_count_add(&e->counters, JV_CTR_TUN_TX_BYTES, len);
}

void jv_sink_flush(struct jv_engine *e) {
    for (uint32_t i = 0; i < e->sink.used; i++)
        write_packet(e, e->sink.packets[i].packet, e->sink.packets[i].len);
    e->sink.used = 0;
}
