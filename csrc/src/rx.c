/* SPDX-License-Identifier: Apache-2.0 */
/* Inwards: UDP -> TUN. Order of checks (protocol.md §5), each failing closed with a counter of its own:
 * size and type, receiver index, key age, suite, tag, replay window, inner packet, allowed source.
 *
 * Datagrams pass in batches, in four phases: keys (under the lock), tags (beside it), meaning (under it, in
 * the order of arrival), device (beside it). What is not data has no second phase and waits for its turn in
 * the third. A key that is copied in the first is looked for again in the third: the session may have lost it
 * in between. */
#include "engine_internal.h"

#include <errno.h>
#include <sodium.h>
#include <time.h>

#define PACE_WINDOW_NS JV_NS_PER_MS
#define PACE_DATAGRAMS 8u
#define PACE_FULL      JV_BURST_MSGS_PLAIN
#define PACE_PAUSE_NS  10000 /* and the kernel's timer slack, 50 us */

static uint32_t index_of(const struct jv_job *job) {
    return jv_get_le32(job->datagram + 4);
}

/* --- first phase: keys
 * ------------------------------------------------------------------------------------------ */

/* What the datagram before had. */
struct memo {
    uint32_t index;
    struct jv_session *session;
    struct jv_keypair *kp; /* NULL = nothing is remembered */
    const struct jv_aead_key *key;
};

static bool remembers(const struct memo *m, const struct jv_job *job) {
    return m->kp && m->index == index_of(job);
}

static void each_session(const struct jv_engine *e, const struct jv_rx *rx,
                         void (*prefetch)(const struct jv_table *, uint32_t)) {
    uint32_t last = 0;
    for (unsigned i = 0; i < rx->jobs; i++) {
        const uint32_t index = index_of(&rx->job[i]);
        if (rx->job[i].state == JV_JOB_SEALED && (i == 0 || index != last))
            prefetch(e->table, index);
        last = index;
    }
}

/* The rows of all sessions of the batch and what they point to, before the first is used. */
static void prefetch(const struct jv_engine *e, const struct jv_rx *rx) {
    each_session(e, rx, jv_table_prefetch);
    each_session(e, rx, jv_table_prefetch_keys);
}

static struct jv_aead_key *type4_key(struct jv_engine *e, struct jv_keypair *kp, const struct jv_job *job) {
    if (jv_get_le64(job->datagram + 8) < e->limits.reject_after_messages)
        return &kp->recv;
    jv_count(&e->counters, JV_CTR_DROP_AUTH);
    return NULL;
}

static bool take_key(struct jv_engine *e, struct jv_rx *rx, struct jv_job *job, struct memo *m) {
    if (!remembers(m, job)) {
        m->index = index_of(job);
        m->kp = jv_rx_key(e, job->datagram, &m->session);
    }
    if (!m->kp)
        return false;
    struct jv_aead_key *key =
        job->jump ? jv_suite_key(e, m->kp, job->datagram, job->len) : type4_key(e, m->kp, job);
    if (key && key != m->key)
        jv_hot_take(&e->hot, key, &rx->key[rx->keys++]);
    m->key = key ? key : m->key;
    job->key = (uint8_t)(rx->keys - 1);
    return key;
}

static void take_keys(struct jv_engine *e, struct jv_rx *rx) {
    struct memo m = {.kp = NULL};
    prefetch(e, rx);
    for (unsigned i = 0; i < rx->jobs; i++)
        if (rx->job[i].state == JV_JOB_SEALED && !take_key(e, rx, &rx->job[i], &m))
            rx->job[i].state = JV_JOB_DROPPED;
}

/* --- second phase: tags
 * ----------------------------------------------------------------------------------------- */

/* Type 4 has no associated data, type 5 its whole header. */
static void open_job(struct jv_worker *w, struct jv_job *job) {
    const struct jv_aead_key *key = &w->rx.key[job->key].key;
    const uint32_t sealed_bytes = job->len - JV_HEADER_BYTES;
    uint8_t *inner = job->datagram + JV_HEADER_BYTES;
    if (jv_aead_open(key, jv_get_le64(job->datagram + 8), job->jump ? job->datagram : NULL,
                     job->jump ? JV_HEADER_BYTES : 0, inner, sealed_bytes, inner) != 0) {
        jv_count(&w->counters, JV_CTR_DROP_AUTH);
        job->state = JV_JOB_DROPPED;
        return;
    }
    job->state = JV_JOB_OPENED;
    job->inner_bytes = sealed_bytes - (uint32_t)jv_aead_tag_bytes(key->suite);
    job->fault = JV_IP_OK;
    if (job->inner_bytes > 0 && inner[0] != JV_FRAMES_MARK)
        job->fault = (int8_t)jv_ip_parse(inner, job->inner_bytes, &job->ip);
}

static void open_jobs(struct jv_worker *w) {
    struct jv_rx *rx = &w->rx;
    for (unsigned i = 0; i < rx->jobs; i++)
        if (rx->job[i].state == JV_JOB_SEALED)
            open_job(w, &rx->job[i]);
    for (unsigned i = 0; i < rx->keys; i++)
        jv_hot_wipe(&rx->key[i]);
}

/* --- third phase: meaning
 * --------------------------------------------------------------------------------------- */

/* A cookie reply has none. */
static bool has_mac2(const struct jv_job *job) {
    return job->datagram[0] != JV_TYPE_COOKIE &&
           !sodium_is_zero(job->datagram + job->len - JV_MAC_BYTES, JV_MAC_BYTES);
}

/* What answers a message of ours names the index we chose: of types 2 and 3 the rest is nobody's. */
static bool is_addressed(const struct jv_engine *e, const struct jv_job *job) {
    const uint32_t at = job->datagram[0] == JV_TYPE_COOKIE ? 4 : 8;
    return job->datagram[0] == JV_TYPE_INITIATION ||
           jv_table_by_index(e->table, jv_get_le32(job->datagram + at)) != NULL;
}

/* The ring it waits in, or NULL and a counter. */
static struct jv_ring *lane(struct jv_engine *e, const struct jv_job *job) {
    if (!is_addressed(e, job)) {
        jv_count(&e->counters, JV_CTR_DROP_INDEX);
        return NULL;
    }
    /* One address may rightly answer for many: a gateway that has many sessions with this host. */
    const bool pressed =
        job->datagram[0] == JV_TYPE_INITIATION && e->handshakes_waiting >= JV_HANDSHAKES_PRESSED;
    switch (jv_gate_judge(e->gate, &job->msg->from, has_mac2(job), pressed, e->now_ns)) {
    case JV_GATE_PRIOR:
        return e->handshakes;
    case JV_GATE_STRANGER:
        return e->strangers;
    case JV_GATE_OVER_SOURCE:
        jv_count(&e->counters, JV_CTR_DROP_HANDSHAKE_SOURCE);
        return NULL;
    default:
        jv_count(&e->counters, JV_CTR_DROP_HANDSHAKE_RATE);
        return NULL;
    }
}

static void hand_up(struct jv_engine *e, const struct jv_job *job) {
    struct jv_ring *ring = lane(e, job);
    if (!ring)
        return;
    struct jv_event *event = jv_ring_reserve(ring, (uint32_t)(sizeof *event + job->len));
    if (!event) {
        jv_count(&e->counters, JV_CTR_DROP_RING_HANDSHAKE_FULL);
        return;
    }
    *event = (struct jv_event){.kind = JV_EVENT_HANDSHAKE,
                               .len = (uint16_t)job->len,
                               .bytes = job->len,
                               .value = e->now_ns,
                               .from = job->msg->from};
    memcpy(event->data, job->datagram, job->len);
    jv_engine_publish(e, ring, (uint32_t)(sizeof *event + job->len));
    e->handshakes_waiting++;
    jv_count(&e->counters, JV_CTR_RX_HANDSHAKE);
}

static void whole(struct jv_engine *e, const struct jv_job *job) {
    if (job->datagram[0] == JV_TYPE_JUMP)
        jv_control_rx(e, job->msg, job->datagram, job->len);
    else
        hand_up(e, job);
}

/* What may rotate keypairs or act on the session ends what is remembered of it. */
static bool admit_data(struct jv_engine *e, const struct jv_job *job, struct memo *m) {
    if (!remembers(m, job)) {
        m->index = index_of(job);
        m->kp = jv_rx_key(e, job->datagram, &m->session);
    }
    if (!m->kp)
        return false;
    struct jv_arrival a = {
        .msg = job->msg,
        .session = m->session,
        .kp = m->kp,
        .bytes = job->len,
        .path_id = job->jump ? job->datagram[2] : 0,
        .type = job->jump ? JV_TYPE_JUMP : JV_TYPE_TRANSPORT,
    };
    if (a.kp == a.session->next)
        m->kp = NULL;
    const bool passes = jv_rx_data(e, &a, job);
    if (!passes)
        m->kp = NULL;
    return passes;
}

static void admit(struct jv_engine *e, struct jv_rx *rx) {
    struct memo m = {.kp = NULL};
    for (unsigned i = 0; i < rx->jobs; i++) {
        struct jv_job *job = &rx->job[i];
        if (job->state == JV_JOB_OPENED) {
            job->state = admit_data(e, job, &m) ? JV_JOB_PASSED : JV_JOB_DROPPED;
        } else if (job->state == JV_JOB_WHOLE) {
            m.kp = NULL;
            whole(e, job);
        }
    }
}

/* --- the phases of a batch
 * -------------------------------------------------------------------------------------- */

static void run_batch(struct jv_worker *w) {
    struct jv_rx *rx = &w->rx;
    rx->keys = 0;
    jv_lock(w->e, w->now_ns);
    take_keys(w->e, rx);
    jv_unlock(w->e);
    open_jobs(w);
    jv_lock(w->e, w->now_ns);
    admit(w->e, rx);
    jv_unlock(w->e);
    for (unsigned i = 0; i < rx->jobs; i++)
        if (rx->job[i].state == JV_JOB_PASSED)
            jv_sink_add(w, rx->job[i].datagram + JV_HEADER_BYTES, &rx->job[i].ip);
    rx->jobs = 0;
}

static void add(struct jv_worker *w, const struct jv_msg *msg, uint8_t *datagram, uint32_t len,
                enum jv_job_state state, bool jump) {
    w->rx.job[w->rx.jobs++] =
        (struct jv_job){.msg = msg, .datagram = datagram, .len = len, .state = (uint8_t)state, .jump = jump};
    if (w->rx.jobs == JV_RX_BATCH)
        run_batch(w);
}

/* Sizes of messages 1..3 are fixed; anything else of those types is not WireGuard. */
static const uint16_t handshake_bytes[4] = {0, 148, 92, 64};

static void sort(struct jv_worker *w, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    if (len < JV_MIN_DATAGRAM_BYTES) {
        jv_count(&w->counters, JV_CTR_DROP_SHORT);
        return;
    }
    const uint32_t type = jv_get_le32(datagram); /* with the three reserved bytes, which are zero */
    if (type == JV_TYPE_TRANSPORT)
        add(w, msg, datagram, len, JV_JOB_SEALED, false);
    else if ((type & 0xff) == JV_TYPE_JUMP)
        add(w, msg, datagram, len, datagram[1] == JV_SUITE_CONTROL ? JV_JOB_WHOLE : JV_JOB_SEALED, true);
    else if (type >= 1 && type <= 3 && len == handshake_bytes[type])
        add(w, msg, datagram, len, JV_JOB_WHOLE, false);
    else if (type >= 1 && type <= 3)
        jv_count(&w->counters, JV_CTR_DROP_LENGTH);
    else
        jv_count(&w->counters, JV_CTR_DROP_TYPE);
}

/* A message is a train: equal datagrams one after another, the last may be shorter (UDP_GRO). */
static uint32_t take_apart(struct jv_worker *w, const struct jv_msg *msg) {
    uint32_t datagrams = 0;
    for (uint32_t at = 0; at < msg->len; at += msg->segment_bytes, datagrams++) {
        const uint32_t left = msg->len - at;
        sort(w, msg, msg->data + at, left < msg->segment_bytes ? left : msg->segment_bytes);
    }
    return datagrams ? datagrams : 1; /* an empty datagram is work as well */
}

static int descriptor(struct jv_worker *w, int socket_id) {
    JV_HOLD(w->e, w->now_ns);
    const struct jv_socket *sock = jv_engine_socket(w->e, socket_id);
    return sock ? sock->fd[w->number] : -1;
}

static void tell_error(struct jv_worker *w, int socket_id, int error) {
    JV_HOLD(w->e, w->now_ns);
    jv_engine_socket_failed(w->e, socket_id, error);
}

/* The burst's memory is used again by the next receive, so the sink is emptied before it. */
static int receive(struct jv_worker *w, int fd, int socket_id, int *error) {
    const int n = jv_burst_recv(w->burst, fd, (uint16_t)socket_id, &w->counters);
    int taken = 0;
    for (int i = 0; i < n; i++)
        taken += (int)take_apart(w, &jv_burst_msgs(w->burst)[i]);
    if (w->rx.jobs > 0)
        run_batch(w);
    jv_sink_flush(w);
    *error = -jv_burst_error(w->burst);
    return taken;
}

static void count_pace(struct jv_pace *p, uint64_t now_ns) {
    const uint64_t passed_ns = now_ns - p->since_ns;
    if (passed_ns < PACE_WINDOW_NS)
        return;
    p->before = passed_ns < 2 * PACE_WINDOW_NS ? p->datagrams : 0;
    p->datagrams = 0;
    p->since_ns = now_ns;
}

/* A sender without trains wakes us for every few datagrams. Where they come fast a short pause lets more of
 * them share one wakeup, one receive and one write, as a network card moderates its interrupts. Never where
 * calls are full already, and never below PACE_DATAGRAMS in a millisecond: there it would only be delay. */
static void gather(struct jv_worker *w) {
    const struct timespec pause = {.tv_nsec = PACE_PAUSE_NS};
    count_pace(&w->pace, w->now_ns);
    if (w->pace.before < PACE_DATAGRAMS || w->pace.taken >= PACE_FULL || !jv_burst_single(w->burst))
        return;
    (void)nanosleep(&pause, NULL);
    jv_count(&w->counters, JV_CTR_RX_PAUSES);
}

int jv_pump_udp(struct jv_worker *w, int socket_id, uint64_t now_ns) {
    int taken = 0, n, error;
    w->now_ns = now_ns;
    const int fd = descriptor(w, socket_id);
    if (fd < 0)
        return -ENOENT;
    gather(w);
    do {
        n = receive(w, fd, socket_id, &error);
        taken += n;
    } while (error == 0 && n >= JV_BURST_MSGS_GRO && taken < (int)JV_RX_DATAGRAMS);
    if (jv_local_error(error)) { /* taking it up has cleared it; the socket lives */
        tell_error(w, socket_id, error);
        error = 0;
    }
    w->pace.taken = taken;
    w->pace.datagrams += (uint32_t)taken;
    jv_worker_fold(w);
    return error ? -error : taken;
}
