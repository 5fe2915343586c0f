/* SPDX-License-Identifier: Apache-2.0 */
/* The largest inner packet that each path carries, found by padded probes with DF set (RFC 8899): no ICMP is
 * believed, and a size is never carried over to another path.
 *
 * A path is asked when it first answers, when data is bound to it or it moves, when its loss crosses the
 * threshold, and once a minute of traffic while it is bound. It is lowered only after a smaller probe has
 * passed, for else it is dead or lossy, which others judge; from then on inner senders get Packet Too Big. */
#include "engine_internal.h"

#include <errno.h>

#define SENDS_MAX       3u
#define SENDS_LOSSY_MAX 8u /* at 30 % loss each way eight probes in a row are lost once in 200 times */
/* PMTU probes number themselves from here, so that no answer can be taken for a probe of the row. */
#define PMTU_SEQ_BASE (UINT64_C(1) << 63)
#define FLOOR_BYTES   1280u /* RFC 8200 §5: every IPv6 link carries it */
#define LEAST_BYTES   576u  /* RFC 791 §3.1; below it nothing is searched */
#define CLOSE_BYTES   8     /* no sender chooses its sizes finer */
#define AGAIN_NS      (60 * JV_NS_PER_S)

static uint16_t top_of(const struct jv_engine *e) {
    return (uint16_t)(e->mtu_bytes < JV_FRAMES_PMTU_MAX ? e->mtu_bytes : JV_FRAMES_PMTU_MAX);
}

/* The first that is tried is the whole tunnel's, so a path that carries it costs one probe. 0 = it is known.
 */
static uint16_t next_size(const struct jv_pmtu *m, uint16_t top_bytes) {
    if (m->bad_bytes > top_bytes)
        return m->good_bytes == top_bytes ? 0 : top_bytes;
    if (m->good_bytes)
        return m->bad_bytes - m->good_bytes > CLOSE_BYTES ? (uint16_t)((m->good_bytes + m->bad_bytes) / 2)
                                                          : 0;
    return m->bad_bytes > FLOOR_BYTES ? FLOOR_BYTES : m->bad_bytes > LEAST_BYTES ? LEAST_BYTES : 0;
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
    if (!sock || getsockopt(sock->fd[0], level, name, &before, &size) != 0 ||
        setsockopt(sock->fd[0], level, name, &probe, sizeof probe) != 0)
        return -ENOTSUP;
    const int error = jv_control_send(e, s, kp, path, &path->endpoint, len);
    (void)setsockopt(sock->fd[0], level, name, &before, sizeof before);
    return error;
}

/* As long as the datagram of an inner packet of that size. */
static void send_padded(struct jv_engine *e, struct jv_session *s, struct jv_path *path) {
    struct jv_pmtu *m = &s->paths->pmtu;
    struct jv_keypair *kp = jv_control_key(e, s);
    struct jv_probe probe;
    uint8_t *plain = jv_control_plain(e);
    m->due_ns = e->now_ns + (jv_path_pto_ns(path) << (m->sends < 2 ? m->sends : 2));
    m->sends++;
    if (!kp)
        return;
    const size_t as_data = m->size_bytes + jv_suite_tag_bytes(s->current) - JV_TAG_BYTES;
    const size_t len = as_data < JV_FRAMES_PMTU_MAX ? as_data : JV_FRAMES_PMTU_MAX;
    jv_probe_fill(s->paths, path, jv_control_datagram(len), &probe);
    probe.seq = m->seq;
    probe.tx_time_ns = e->now_ns;
    probe.pmtu = true;
    plain[0] = JV_FRAMES_MARK;
    const size_t used = 1 + jv_probe_put(plain + 1, &probe);
    memset(plain + used, 0, len - used);
    jv_count(&e->counters, JV_CTR_TX_PROBES);
    (void)send_unfragmented(e, s, kp, path, len);
    path->tx_packets--; /* it counts as sent when it is known to have arrived: too large is not lossy */
}

static void ask(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint16_t size_bytes) {
    struct jv_pmtu *m = &s->paths->pmtu;
    m->seq = PMTU_SEQ_BASE + ++s->paths->probe_seq;
    m->size_bytes = size_bytes;
    m->sends = 0;
    send_padded(e, s, path);
}

static struct jv_path *next_wanted(struct jv_paths *p) {
    struct jv_path *data = jv_paths_data(p);
    if (data && data->mtu_wanted && data->alive)
        return data;
    for (unsigned i = 0; i < p->capacity; i++)
        if (p->row[i].id && p->row[i].mtu_wanted && p->row[i].alive)
            return &p->row[i];
    return NULL;
}

void jv_pmtu_search(struct jv_engine *e, struct jv_session *s) {
    struct jv_pmtu *m = &s->paths->pmtu;
    struct jv_path *path = m->due_ns ? NULL : next_wanted(s->paths);
    if (!path || top_of(e) < LEAST_BYTES)
        return;
    path->mtu_wanted = false;
    m->path_id = path->id;
    m->good_bytes = 0;
    m->bad_bytes = (uint16_t)(top_of(e) + 1);
    ask(e, s, path, top_of(e));
    jv_paths_arm(e, s);
}

/* Told when it is news. What was lost by its size is no loss of the path: its window begins anew. */
static void carries(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint16_t inner_bytes) {
    const uint16_t limit = inner_bytes == top_of(e) ? 0 : inner_bytes;
    if (limit == path->mtu_bytes)
        return;
    if (limit && (!path->mtu_bytes || limit < path->mtu_bytes))
        path->points = 0;
    path->mtu_bytes = limit;
    (void)jv_engine_report(
        e, s,
        (struct jv_event){
            .kind = JV_EVENT_PMTU, .reason = limit != 0, .path_id = path->id, .value = inner_bytes},
        NULL, 0);
}

/* A size passed or was lost for good. Nothing that passed at all: nothing is learned. */
static void learned(struct jv_engine *e, struct jv_session *s, struct jv_path *path, bool passed) {
    struct jv_pmtu *m = &s->paths->pmtu;
    m->due_ns = 0;
    if (passed)
        m->good_bytes = m->size_bytes;
    else
        m->bad_bytes = m->size_bytes;
    const uint16_t size_bytes = next_size(m, top_of(e));
    const uint16_t known = path->mtu_bytes ? path->mtu_bytes : top_of(e);
    if (m->good_bytes && (!size_bytes || m->bad_bytes <= known))
        carries(e, s, path, m->good_bytes);
    if (size_bytes) {
        ask(e, s, path, size_bytes);
        return;
    }
    m->again_ns = e->now_ns + AGAIN_NS;
    jv_pmtu_search(e, s);
}

/* What is lost on a lossy path need not be lost by its size. */
static unsigned sends_max(const struct jv_path *path) {
    return path->level[0] || path->misses ? SENDS_LOSSY_MAX : SENDS_MAX;
}

static void ask_again(struct jv_engine *e, struct jv_session *s) {
    struct jv_pmtu *m = &s->paths->pmtu;
    if (!m->again_ns || m->again_ns > e->now_ns || m->due_ns)
        return;
    m->again_ns = 0; /* an idle session asks with its next packet */
    if (s->paths->bound && !s->paths->idle)
        s->paths->bound->mtu_wanted = true;
    jv_pmtu_search(e, s);
}

void jv_pmtu_run(struct jv_engine *e, struct jv_session *s) {
    struct jv_pmtu *m = &s->paths->pmtu;
    struct jv_path *path = jv_paths_by_id(s->paths, m->path_id);
    ask_again(e, s);
    if (!m->due_ns || m->due_ns > e->now_ns)
        return;
    m->due_ns = 0;
    if (!path)
        jv_pmtu_search(e, s);
    else if (m->sends >= sends_max(path))
        learned(e, s, path, false);
    else
        send_padded(e, s, path);
}

bool jv_pmtu_answered(struct jv_engine *e, struct jv_session *s, struct jv_path *path, uint64_t seq) {
    const struct jv_pmtu *m = &s->paths->pmtu;
    if (seq < PMTU_SEQ_BASE)
        return false;
    if (m->due_ns && m->seq == seq && m->path_id == path->id) {
        path->tx_packets++;
        learned(e, s, path, true);
        jv_paths_arm(e, s);
    }
    return true;
}
