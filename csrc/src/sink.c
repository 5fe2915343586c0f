/* SPDX-License-Identifier: Apache-2.0 */
/* Packets on their way into the TUN device. Gathered during a burst and written at its end, so that runs of
 * one flow leave as one super-packet. */
#include "engine_internal.h"

#include <errno.h>
#include <unistd.h>

/* One write of the device, with the header of a super-packet before the first piece if it has such headers.
 */
static bool write_device(struct jv_worker *w, const struct jv_vnet *vnet, struct iovec *iov, int n,
                         size_t bytes) {
    ssize_t written;
    if (w->tun_features & JV_TUN_VNET) {
        uint8_t *start = (uint8_t *)iov[0].iov_base - sizeof *vnet;
        memcpy(start, vnet, sizeof *vnet);
        iov[0] = (struct iovec){.iov_base = start, .iov_len = iov[0].iov_len + sizeof *vnet};
        bytes += sizeof *vnet;
    }
    do
        written = n == 1 ? write(w->tun_fd, iov[0].iov_base, iov[0].iov_len) : writev(w->tun_fd, iov, n);
    while (written < 0 && errno == EINTR);
    return written == (ssize_t)bytes;
}

void jv_sink_write(struct jv_worker *w, uint8_t *packet, uint32_t len) {
    const struct jv_vnet plain = {.gso_type = JV_VNET_GSO_NONE};
    struct iovec iov = {.iov_base = packet, .iov_len = len};
    if (!write_device(w, &plain, &iov, 1, len)) {
        jv_count(&w->counters, JV_CTR_DROP_TUN_WRITE);
        return;
    }
    jv_count(&w->counters, JV_CTR_TUN_TX_PACKETS);
    jv_count_add(&w->counters, JV_CTR_TUN_TX_BYTES, len);
}

static void write_group(struct jv_worker *w, unsigned i) {
    const struct jv_group *g = &w->sink.group[i];
    struct iovec iov[JV_COALESCE_IOV_MAX];
    struct jv_vnet vnet;
    const int n = jv_coalesce_take(&w->sink, i, &vnet, iov);
    if (!write_device(w, &vnet, iov, n, g->total_bytes)) {
        jv_count_add(&w->counters, JV_CTR_DROP_TUN_WRITE, g->merged);
        return;
    }
    jv_count_add(&w->counters, JV_CTR_TUN_TX_PACKETS, g->merged);
    jv_count_add(&w->counters, JV_CTR_TUN_TX_BYTES, g->total_bytes + (g->merged - 1u) * g->header_bytes);
    jv_count_add(&w->counters, JV_CTR_TUN_TX_SUPERS, g->merged > 1);
}

void jv_sink_add(struct jv_worker *w, uint8_t *packet, const struct jv_ip *ip) {
    if (jv_coalesce_full(&w->sink))
        jv_sink_flush(w);
    jv_coalesce_add(&w->sink, packet, ip);
}

void jv_sink_flush(struct jv_worker *w) {
    if (w->sink.groups_used == 0)
        return;
    for (unsigned i = 0; i < w->sink.groups_used; i++)
        write_group(w, i);
    jv_coalesce_reset(&w->sink, w->tun_features);
}
