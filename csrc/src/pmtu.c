/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a path carries a certain size: a padded probe with DF set, up to three times (in the manner of
 * RFC 8899). Its loss is no evidence about the path's liveness, so it stands beside the row's own probes. */
#include "engine_internal.h"

#include <errno.h>

#define PMTU_SENDS_MAX 3u
/* PMTU probes number themselves from here, so that no answer can be taken for a probe of the row. */
#define PMTU_SEQ_BASE (UINT64_C(1) << 63)

static void finish(struct jv_engine *e, struct jv_session *s, bool passed) {
    struct jv_pmtu *m = &s->paths->pmtu;
    m->due_ns = 0;
    (void)jv_engine_report(
        e, s,
        (struct jv_event){
            .kind = JV_EVENT_PMTU, .reason = passed, .path_id = m->path_id, .value = m->size_bytes},
        NULL, 0);
}

/* Sends with DF set, whatever the socket does otherwise. */
static int send_unfragmented(struct jv_engine *e, struct jv_session *s, struct jv_keypair *kp,
                             struct jv_path *path, size_t len) {
    const struct jv_socket *sock = jv_engine_socket(e, path->endpoint.socket);
    const bool v6 = path->endpoint.remote.family == AF_INET6;
    const int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP, name = v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER;
    const int probe = v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
    int before = 0;
    socklen_t size = sizeof before;
    if (!sock || getsockopt(sock->fd, level, name, &before, &size) != 0 ||
        setsockopt(sock->fd, level, name, &probe, sizeof probe) != 0)
        return -ENOTSUP;
    const int error = jv_control_send(e, s, kp, path, &path->endpoint, len);
    (void)setsockopt(sock->fd, level, name, &before, sizeof before);
    return error;
}

/* As long as the datagram of an inner packet of that size. */
static void send_padded(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    struct jv_pmtu *m = &s->paths->pmtu;
    struct jv_keypair *kp = jv_control_key(e, s);
    struct jv_probe probe;
    uint8_t *plain = jv_control_plain(e);
    m->sends++;
    m->due_ns = e->now_ns + jv_path_pto_ns(path);
    if (!kp)
        return;
    jv_probe_fill(s->paths, path, jv_control_datagram(m->size_bytes), &probe);
    probe.seq = m->seq;
    probe.tx_time_ns = e->now_ns;
    probe.pmtu = true;
    plain[0] = JV_FRAMES_MARK;
    const size_t used = 1 + jv_probe_put(plain + 1, &probe);
    memset(plain + used, 0, m->size_bytes - used);
    jv_count(&e->counters, JV_CTR_TX_PROBES);
    (void)send_unfragmented(e, s, kp, path, m->size_bytes);
    path->tx_packets--; /* it counts as sent when it is known to have arrived: too large is not lossy */
}

void jv_pmtu_run(struct jv_engine *e, struct jv_session *s) {
    const struct jv_pmtu *m = &s->paths->pmtu;
    if (!m->due_ns || m->due_ns > e->now_ns)
        return;
    struct jv_path *path = jv_paths_by_id(s->paths, m->path_id);
    if (!path || m->sends >= PMTU_SENDS_MAX)
        finish(e, s, false);
    else
        send_padded(e, s, path);
}

bool jv_pmtu_answered(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint64_t seq) {
    const struct jv_pmtu *m = &s->paths->pmtu;
    if (seq < PMTU_SEQ_BASE)
        return false;
    if (m->due_ns && m->seq == seq && m->path_id == path->id) {
        path->tx_packets++;
        finish(e, s, true);
    }
    return true;
}

int jv_engine_probe_mtu(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint16_t inner_bytes,
                        uint64_t now_ns) {
    struct jv_session *s = jv_table_get(e->table, slot);
    struct jv_path *path = s && s->paths ? jv_paths_by_id(s->paths, path_id) : NULL;
    if (!path)
        return -ENOENT;
    if (inner_bytes < 576 || inner_bytes > JV_FRAMES_PMTU_MAX)
        return -EINVAL;
    if (s->paths->pmtu.due_ns)
        return -EBUSY;
    e->now_ns = now_ns;
    s->paths->pmtu = (struct jv_pmtu){
        .seq = PMTU_SEQ_BASE + ++s->paths->probe_seq,
        .size_bytes = inner_bytes,
        .path_id = path_id,
    };
    send_padded(e, s, path);
    jv_paths_arm(e, s);
    return 0;
}

int jv_engine_set_path_mtu(struct jv_engine *e, uint32_t slot, uint8_t path_id, uint16_t inner_bytes) {
    const struct jv_session *s = jv_table_get(e->table, slot);
    struct jv_path *path = s && s->paths ? jv_paths_by_id(s->paths, path_id) : NULL;
    if (!path)
        return -ENOENT;
    path->mtu_bytes = inner_bytes;
    return 0;
}
