/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's life, its lock and its tables: what Python sets up, and the events it gets back. Packets pass
 * by in rx.c and tx.c. */
#include "engine_internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- the lock
 * --------------------------------------------------------------------------------------------------- */

/* It is held for less than a microsecond at a time, so who waits does so awake at first. */
static int lock_init(pthread_mutex_t *lock) {
    pthread_mutexattr_t kind;
    if (pthread_mutexattr_init(&kind) != 0)
        return -1;
    (void)pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
    const int error = pthread_mutex_init(lock, &kind);
    (void)pthread_mutexattr_destroy(&kind);
    return error == 0 ? 0 : -1;
}

/* A thread that has waited for the lock brings a time that is past by then. */
void jv_lock(struct jv_engine *e, uint64_t now_ns) {
    (void)pthread_mutex_lock(&e->lock);
    if (now_ns > e->now_ns)
        e->now_ns = now_ns;
}

/* Whoever has made an event or an earlier deadline wakes who waits for it, once and without the lock. */
void jv_unlock(struct jv_engine *e) {
    const bool tell = e->workers_used && e->news && !e->told_of_news;
    const bool wake = e->workers_used && e->sooner;
    e->told_of_news |= tell;
    e->news = e->sooner = false;
    (void)pthread_mutex_unlock(&e->lock);
    if (tell)
        (void)eventfd_write(e->event_fd, 1);
    if (wake)
        jv_worker_wake(&e->workers[0]);
}

/* --- life
 * --------------------------------------------------------------------------------------------------- */

static int open_parts(struct jv_engine *e, const struct jv_engine_config *config) {
    e->table = jv_table_new(config->sessions, config->window_bits, config->index_seed);
    e->routes = jv_routes_new(config->prefixes);
    e->gate = jv_gate_new(e->hash_key);
    e->handshakes = jv_ring_new(JV_RING_HANDSHAKE_BYTES);
    e->strangers = jv_ring_new(JV_RING_HANDSHAKE_BYTES);
    e->events = jv_ring_new(JV_RING_EVENT_BYTES);
    e->controls = jv_ring_new(JV_RING_CONTROL_BYTES);
    if (!e->table || !e->routes || !e->gate || !e->handshakes || !e->strangers || !e->events || !e->controls)
        return -1;
    jv_table_stock_windows(e->table);
    jv_lodge_stock(&e->lodge);
    return jv_worker_init(&e->own, e, 0, config->workers == 0);
}

static int open_workers(struct jv_engine *e, unsigned n) {
    if (n == 0)
        return 0;
    e->workers = calloc(n, sizeof *e->workers);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!e->workers || e->event_fd < 0)
        return -1;
    for (; e->workers_used < n; e->workers_used++)
        if (jv_worker_init(&e->workers[e->workers_used], e, e->workers_used, true) != 0)
            return -1;
    return 0;
}

static void settings(struct jv_engine *e, const struct jv_engine_config *config, uint64_t now_ns) {
    e->limits = config->limits;
    e->client = config->client;
    e->udp_wanted = (JV_UDP_GSO | JV_UDP_GRO) & ~config->udp_without;
    e->probe_budget = JV_PROBE_BUDGET;
    e->event_fd = -1;
    e->now_ns = now_ns;
    randombytes_buf(e->hash_key, sizeof e->hash_key);
    for (int i = 0; i < JV_SOCKETS_MAX; i++)
        e->sockets[i].fd[0] = -1;
    jv_wheel_init(&e->wheel, now_ns);
}

struct jv_engine *jv_engine_new(const struct jv_engine_config *config, uint64_t now_ns) {
    if (jv_aead_init() != 0 || config->workers > JV_WORKERS_MAX) {
        errno = config->workers > JV_WORKERS_MAX ? EINVAL : ENOSYS;
        return NULL;
    }
    struct jv_engine *e = calloc(1, sizeof *e);
    if (!e || lock_init(&e->lock) != 0) {
        free(e);
        return NULL;
    }
    settings(e, config, now_ns);
    if (open_parts(e, config) != 0 || open_workers(e, config->workers) != 0) {
        const int error = errno ? errno : ENOMEM;
        jv_engine_free(e);
        errno = error;
        return NULL;
    }
    return e;
}

void jv_engine_free(struct jv_engine *e) {
    if (!e)
        return;
    jv_engine_stop_workers(e);
    for (unsigned i = 0; i < e->workers_used; i++)
        jv_worker_free(&e->workers[i]);
    free(e->workers);
    jv_worker_free(&e->own);
    if (e->event_fd >= 0)
        (void)close(e->event_fd);
    jv_table_free(e->table);
    jv_routes_free(e->routes);
    jv_gate_free(e->gate);
    jv_ring_free(e->handshakes);
    jv_ring_free(e->strangers);
    jv_ring_free(e->events);
    jv_ring_free(e->controls);
    jv_stage_free(&e->stage);
    jv_lodge_free(&e->lodge);
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

/* --- sockets and device
 * --------------------------------------------------------------------------------------- */

static unsigned descriptors(const struct jv_engine *e) {
    return e->workers_used ? e->workers_used : 1;
}

struct jv_socket *jv_engine_socket(struct jv_engine *e, int socket_id) {
    if (socket_id < 0 || socket_id >= JV_SOCKETS_MAX || e->sockets[socket_id].fd[0] < 0)
        return NULL;
    return &e->sockets[socket_id];
}

static int family_of(int fd) {
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &len) == 0 ? address.ss_family : -errno;
}

/* Features that all of them have. */
static int prepare(const struct jv_engine *e, const int *fds) {
    int common = (int)e->udp_wanted;
    for (unsigned i = 0; i < descriptors(e); i++) {
        const int features = jv_udp_prepare(fds[i], e->udp_wanted);
        if (features < 0)
            return features;
        common &= features;
    }
    return common;
}

int jv_engine_add_sockets(struct jv_engine *e, const int *fds) {
    const int family = family_of(fds[0]);
    const int features = family < 0 ? family : prepare(e, fds);
    if (features < 0)
        return features;
    JV_HOLD(e, 0);
    for (int i = 0; i < JV_SOCKETS_MAX; i++) {
        if (e->sockets[i].fd[0] >= 0)
            continue;
        e->sockets[i] = (struct jv_socket){.family = family, .features = (unsigned)features};
        memcpy(e->sockets[i].fd, fds, descriptors(e) * sizeof *fds);
        jv_workers_watch(e, i);
        return i;
    }
    return -ENOSPC;
}

int jv_engine_add_socket(struct jv_engine *e, int fd) {
    return descriptors(e) == 1 ? jv_engine_add_sockets(e, &fd) : -EINVAL;
}

static int forget_socket(struct jv_engine *e, int socket_id) {
    JV_HOLD(e, 0);
    struct jv_socket *sock = jv_engine_socket(e, socket_id);
    if (!sock)
        return -ENOENT;
    jv_workers_unwatch(e, socket_id);
    sock->fd[0] = -1;
    return 0;
}

int jv_engine_remove_socket(struct jv_engine *e, int socket_id) {
    const int error = forget_socket(e, socket_id);
    if (error == 0)
        jv_workers_pass(e);
    return error;
}

int jv_engine_socket_for(struct jv_engine *e, int family) {
    JV_HOLD(e, 0);
    for (int i = 0; i < JV_SOCKETS_MAX; i++)
        if (e->sockets[i].fd[0] >= 0 && e->sockets[i].family == family)
            return i;
    return -EAFNOSUPPORT;
}

unsigned jv_engine_udp_features(struct jv_engine *e) {
    JV_HOLD(e, 0);
    unsigned common = JV_UDP_GSO | JV_UDP_GRO;
    bool any = false;
    for (int i = 0; i < JV_SOCKETS_MAX; i++)
        if (e->sockets[i].fd[0] >= 0) {
            common &= e->sockets[i].features;
            any = true;
        }
    return any ? common : 0;
}

static int give_queue(struct jv_worker *w, int fd, uint32_t mtu_bytes, unsigned features) {
    const int error = jv_tx_init(w, mtu_bytes);
    if (error != 0)
        return error;
    w->tun_fd = fd;
    w->tun_features = features & JV_TUN_VNET ? features : 0;
    jv_coalesce_reset(&w->sink, w->tun_features);
    return 0;
}

int jv_engine_set_queues(struct jv_engine *e, const int *fds, uint32_t mtu_bytes, unsigned features) {
    JV_HOLD(e, 0);
    if (mtu_bytes < 576 || mtu_bytes > 65535 || e->workers_started)
        return -EINVAL;
    int error = give_queue(&e->own, fds[0], mtu_bytes, features);
    for (unsigned i = 0; i < e->workers_used && error == 0; i++)
        error = give_queue(&e->workers[i], fds[i], mtu_bytes, features);
    e->mtu_bytes = mtu_bytes;
    return error ? error : jv_stage_init(&e->stage, mtu_bytes);
}

int jv_engine_set_tun(struct jv_engine *e, int fd, uint32_t mtu_bytes, unsigned features) {
    return descriptors(e) == 1 ? jv_engine_set_queues(e, &fd, mtu_bytes, features) : -EINVAL;
}

int jv_engine_pump_udp(struct jv_engine *e, int socket_id, uint64_t now_ns) {
    return e->workers_used ? -EBUSY : jv_pump_udp(&e->own, socket_id, now_ns);
}

int jv_engine_pump_tun(struct jv_engine *e, uint64_t now_ns) {
    return e->workers_used ? -EBUSY : jv_pump_tun(&e->own, now_ns);
}

/* --- sessions and routes
 * -------------------------------------------------------------------------------------- */

int jv_engine_add_session(struct jv_engine *e, uint32_t *slot) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_add(e->table);
    if (!s)
        return -ENOSPC;
    *slot = s->slot;
    return 0;
}

int jv_engine_remove_session(struct jv_engine *e, uint32_t slot) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    jv_wheel_disarm(&e->wheel, &s->timer);
    jv_stage_drop(&e->stage, s, &e->counters);
    jv_paths_close(e, s);
    jv_table_remove(e->table, s);
    return 0;
}

int jv_engine_new_index(struct jv_engine *e, uint32_t slot, uint32_t *index) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    *index = jv_session_new_index(e->table, s);
    return 0;
}

size_t jv_engine_slots_of(struct jv_engine *e, const uint32_t *indices, size_t n, uint32_t *slots) {
    JV_HOLD(e, 0);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        const struct jv_session *s = jv_table_by_index(e->table, indices[i]);
        slots[i] = s ? s->slot : JV_SESSION_NONE;
        found += s != NULL;
    }
    return found;
}

int jv_engine_install(struct jv_engine *e, uint32_t slot, const struct jv_keys *keys, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    const int error = jv_session_install(e->table, s, keys, now_ns);
    if (error != 0)
        return error;
    jv_clock_installed(e, s);
    if (!keys->initiator || keys->hold)
        return 0;
    /* The initiator's first message tells the responder that its keys work (whitepaper §5.4.6). */
    if (s->stage_count > 0)
        jv_tx_staged(e, s);
    else
        jv_tx_keepalive(e, s);
    return 0;
}

int jv_engine_erase_keys(struct jv_engine *e, uint32_t slot, uint32_t keep_index) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    jv_paths_close(e, s);
    jv_session_keep_only(s, keep_index);
    if (!s->current && !s->next)
        s->due.erase_ns = 0;
    return 0;
}

int jv_engine_set_endpoint(struct jv_engine *e, uint32_t slot, const struct jv_endpoint *to,
                           uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    s->endpoint = *to;
    s->no_gso = false;
    jv_tx_staged(e, s);
    return 0;
}

int jv_engine_get_endpoint(struct jv_engine *e, uint32_t slot, struct jv_endpoint *to) {
    JV_HOLD(e, 0);
    const struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    *to = s->endpoint;
    return 0;
}

int jv_engine_set_keepalive(struct jv_engine *e, uint32_t slot, uint16_t seconds, uint64_t now_ns) {
    JV_HOLD_AT(e, now_ns);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    s->persistent_s = seconds;
    /* The first one goes out at once: it opens the NAT's mapping, and the handshake if there is none. */
    s->due.persistent_ns = seconds ? now_ns : 0;
    jv_clock_arm(e, s);
    return 0;
}

int jv_engine_gave_up(struct jv_engine *e, uint32_t slot) {
    JV_HOLD(e, 0);
    struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    s->wanted = false;
    jv_stage_drop(&e->stage, s, &e->counters);
    return 0;
}

static uint8_t suite_of(const struct jv_keypair *kp) {
    if (!kp)
        return 0;
    return kp->seals ? kp->seals : JV_SUITE_CHACHA20POLY1305;
}

int jv_engine_stats(struct jv_engine *e, uint32_t slot, struct jv_session_stats *out) {
    JV_HOLD(e, 0);
    const struct jv_session *s = jv_table_get(e->table, slot);
    if (!s)
        return -ENOENT;
    *out = (struct jv_session_stats){
        .rx_packets = s->rx_packets,
        .rx_bytes = s->rx_bytes,
        .tx_packets = s->tx_packets,
        .tx_bytes = s->tx_bytes,
        .latest_handshake_ns = s->latest_handshake_ns,
        .key_birth_ns = s->current ? s->current->birth_ns : 0,
        .has_current = s->current,
        .has_next = s->next,
        .has_previous = s->previous,
        .has_older = s->older,
        .staged = s->stage_count,
        .suite = suite_of(s->current),
        .window_packets = s->current ? (uint32_t)jv_replay_size(&s->current->window) : 0,
    };
    return 0;
}

int jv_engine_add_route(struct jv_engine *e, const struct jv_prefix *prefix, uint32_t slot) {
    JV_HOLD(e, 0);
    uint32_t previous;
    if (!jv_table_get(e->table, slot))
        return -ENOENT;
    return jv_routes_insert(e->routes, prefix, slot, &previous);
}

int jv_engine_remove_route(struct jv_engine *e, const struct jv_prefix *prefix, uint32_t slot) {
    JV_HOLD(e, 0);
    return jv_routes_remove(e->routes, prefix, slot);
}

/* --- events
 * --------------------------------------------------------------------------------------------------- */

bool jv_engine_report(struct jv_engine *e, const struct jv_session *s, struct jv_event facts,
                      const void *data, size_t len) {
    struct jv_event *event = jv_ring_reserve(e->events, (uint32_t)(sizeof *event + len));
    if (!event) {
        jv_count(&e->counters, JV_CTR_DROP_RING_EVENT_FULL);
        return false;
    }
    *event = facts;
    event->slot = s ? s->slot : JV_SESSION_NONE;
    event->len = (uint16_t)len;
    event->order = e->order++;
    if (len > 0)
        memcpy(event->data, data, len);
    jv_engine_publish(e, e->events, (uint32_t)(sizeof *event + len));
    return true;
}

void jv_engine_want(struct jv_engine *e, struct jv_session *s, enum jv_wanted_reason reason) {
    if (s->wanted)
        return;
    const struct jv_event event = {.kind = JV_EVENT_WANTED, .reason = (uint16_t)reason};
    s->wanted = jv_engine_report(e, s, event, NULL, 0); /* else the next packet asks again */
}

bool jv_engine_sheds(struct jv_engine *e) {
    if (jv_ring_waiting_bytes(e->events) < JV_RING_BEHIND_BYTES &&
        !jv_overspent(e->reports_full_ns, e->now_ns)) {
        jv_spend(&e->reports_full_ns, e->now_ns, JV_REPORTS_PER_S);
        return false;
    }
    jv_count(&e->counters, JV_CTR_REPORTS_SHED);
    return true;
}

/* Facts and messages as they came: what thousands of sessions report at once must not keep from us the
 * messages that end their trouble. Messages are looked at first: whatever fact came before one is there by
 * then. Who is not authenticated waits for both. */
static struct jv_ring *next_ring(const struct jv_engine *e) {
    uint32_t bytes;
    const struct jv_event *message = jv_ring_peek(e->controls, &bytes);
    const struct jv_event *fact = jv_ring_peek(e->events, &bytes);
    if (fact && message)
        return (int32_t)(message->order - fact->order) < 0 ? e->controls : e->events;
    if (fact || message)
        return fact ? e->events : e->controls;
    return jv_ring_peek(e->handshakes, &bytes) ? e->handshakes : e->strangers;
}

const struct jv_event *jv_engine_peek(struct jv_engine *e) {
    uint32_t bytes;
    e->peeked = next_ring(e);
    return jv_ring_peek(e->peeked, &bytes);
}

/* Its session may be gone, and the row another's: that one may then have one more waiting than its share. */
static void taken(struct jv_engine *e) {
    uint32_t bytes;
    const struct jv_event *event = jv_ring_peek(e->controls, &bytes);
    struct jv_session *s = event ? jv_table_get(e->table, event->slot) : NULL;
    if (s && s->controls)
        s->controls--;
}

void jv_engine_consume(struct jv_engine *e) {
    JV_HOLD(e, 0);
    if (e->peeked == e->handshakes || e->peeked == e->strangers)
        e->handshakes_waiting--;
    else if (e->peeked == e->controls)
        taken(e);
    jv_ring_consume(e->peeked);
}

uint32_t jv_engine_handshakes_waiting(struct jv_engine *e) {
    JV_HOLD(e, 0);
    return e->handshakes_waiting;
}

const struct jv_counters *jv_engine_counters(struct jv_engine *e) {
    JV_HOLD(e, 0);
    jv_counters_sum(&e->counters, &e->own.counters); /* of what was sent under the lock */
    memset(&e->own.counters, 0, sizeof e->own.counters);
    e->told = e->counters;
    return &e->told;
}

int jv_engine_send(struct jv_engine *e, const struct jv_endpoint *to, const uint8_t *data, size_t len) {
    JV_HOLD(e, 0);
    if (!jv_engine_socket(e, to->socket) || len == 0 || len > JV_TRAIN_BYTES_MAX)
        return -EINVAL;
    struct jv_train train = {.data = data, .len = (uint32_t)len, .to = to};
    /* Cookie replies go to whoever asks, these to an address we chose or that proved itself. */
    if (data[0] == JV_TYPE_INITIATION || data[0] == JV_TYPE_RESPONSE)
        jv_gate_expect(e->gate, to, e->now_ns);
    return jv_engine_transmit(e, to->socket, &train, 1) == 1 ? 0 : -EIO;
}

/* --- what leaves by a socket
 * -------------------------------------------------------------------------------- */

uint32_t jv_engine_transmit(struct jv_engine *e, int socket_id, struct jv_train *trains, size_t n) {
    const struct jv_socket *sock = jv_engine_socket(e, socket_id);
    if (!sock) {
        jv_count_add(&e->counters, JV_CTR_DROP_NO_ENDPOINT, n);
        return 0;
    }
    const uint32_t sent = jv_sender_send(e->own.sender, sock->fd[0], trains, n, &e->counters);
    for (size_t i = 0; i < n; i++)
        if (jv_unlikely(trains[i].error))
            jv_engine_socket_failed(e, socket_id, trains[i].error);
    return sent;
}

void jv_engine_socket_failed(struct jv_engine *e, int socket_id, int error) {
    struct jv_socket *sock = jv_engine_socket(e, socket_id);
    if (!sock)
        return;
    if (e->now_ns - sock->errors_ns >= JV_NS_PER_S) {
        sock->errors_ns = e->now_ns;
        sock->errors = 0;
    }
    if (sock->errors >= JV_SOCKET_ERRORS_PER_S)
        return;
    sock->errors++;
    const struct jv_event event = {
        .kind = JV_EVENT_SOCKET_ERROR, .reason = (uint16_t)error, .value = (uint64_t)socket_id};
    (void)jv_engine_report(e, NULL, event, NULL, 0);
}
