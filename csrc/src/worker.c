/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of a native worker: wait, pump what is ready (UDP before TUN), run timers (worker 0), again. */
#include "engine_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What epoll says is ready: a socket by its id, or one of these. */
enum { DEVICE = JV_SOCKETS_MAX, WAKE, READY_MAX };

#define NATIVE_TICK_SESSIONS 64u /* the lock is held meanwhile: below 0.1 ms */
#define PASS_POLL_NS         20000
#define SHORT_TURN_NS        100000 /* the least that the kernel grants */

/* struct sched_attr of linux/sched/types.h, in its first version; that header and libc's clash. */
struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

int jv_worker_init(struct jv_worker *w, struct jv_engine *e, unsigned number, bool pumps) {
    w->e = e;
    w->number = number;
    w->tun_fd = w->epoll_fd = w->wake_fd = -1;
    w->sender = jv_sender_new(e->udp_wanted);
    if (pumps)
        w->burst = jv_burst_new(e->udp_wanted, JV_TRAIN_BYTES_MAX);
    return w->sender && (w->burst || !pumps) ? 0 : -1;
}

void jv_worker_free(struct jv_worker *w) {
    jv_burst_free(w->burst);
    jv_sender_free(w->sender);
    jv_tx_free(w);
}

void jv_worker_fold(struct jv_worker *w) {
    JV_HOLD(w->e, w->now_ns);
    jv_counters_sum(&w->e->counters, &w->counters);
    w->rx_datagrams += w->counters.n[JV_CTR_RX_DATAGRAMS];
    w->tx_datagrams += w->counters.n[JV_CTR_TX_DATAGRAMS];
    memset(&w->counters, 0, sizeof w->counters);
}

void jv_worker_wake(struct jv_worker *w) {
    if (w->wake_fd >= 0)
        (void)eventfd_write(w->wake_fd, 1);
}

/* --- descriptors
 * ------------------------------------------------------------------------------------------------ */

static int watch(struct jv_worker *w, int fd, uint32_t what) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = what};
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static void unwatch(struct jv_worker *w, int fd) {
    (void)epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void jv_workers_watch(struct jv_engine *e, int socket_id) {
    for (unsigned i = 0; e->workers_started && i < e->workers_used; i++)
        (void)watch(&e->workers[i], e->sockets[socket_id].fd[i], (uint32_t)socket_id);
}

void jv_workers_unwatch(struct jv_engine *e, int socket_id) {
    for (unsigned i = 0; e->workers_started && i < e->workers_used; i++)
        unwatch(&e->workers[i], e->sockets[socket_id].fd[i]);
}

/* A worker that works now may still have the descriptor; one that begins later looks it up and finds none. */
void jv_workers_pass(struct jv_engine *e) {
    const struct timespec pause = {.tv_nsec = PASS_POLL_NS};
    for (unsigned i = 0; i < e->workers_used; i++) {
        const unsigned turn = atomic_load(&e->workers[i].turn);
        while (turn & 1 && atomic_load(&e->workers[i].turn) == turn)
            (void)nanosleep(&pause, NULL);
    }
}

/* --- the thread
 * ------------------------------------------------------------------------------------------------- */

static uint64_t boottime_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * JV_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* A descriptor that fails would be ready for ever. */
static void failed(struct jv_worker *w, int fd, int error) {
    const struct jv_event event = {
        .kind = JV_EVENT_WORKER_FAILED, .reason = (uint16_t)error, .value = w->number};
    unwatch(w, fd);
    JV_HOLD(w->e, w->now_ns);
    (void)jv_engine_report(w->e, NULL, event, NULL, 0);
}

static int descriptor(struct jv_worker *w, int socket_id) {
    JV_HOLD(w->e, 0);
    const struct jv_socket *sock = jv_engine_socket(w->e, socket_id);
    return sock ? sock->fd[w->number] : -1;
}

static void pump_socket(struct jv_worker *w, int socket_id) {
    const int n = jv_pump_udp(w, socket_id, boottime_ns());
    if (n < 0 && n != -ENOENT)
        failed(w, descriptor(w, socket_id), -n);
}

static void pump_device(struct jv_worker *w) {
    const int n = jv_pump_tun(w, boottime_ns());
    if (n < 0)
        failed(w, w->tun_fd, -n);
}

static void serve(struct jv_worker *w, const struct epoll_event *ready, int n) {
    eventfd_t ignored;
    for (int i = 0; i < n; i++)
        if (ready[i].data.u32 < JV_SOCKETS_MAX)
            pump_socket(w, (int)ready[i].data.u32);
    for (int i = 0; i < n; i++) {
        if (ready[i].data.u32 == DEVICE)
            pump_device(w);
        else if (ready[i].data.u32 == WAKE)
            (void)eventfd_read(w->wake_fd, &ignored);
    }
}

static void run_timers(struct jv_worker *w) {
    JV_HOLD(w->e, boottime_ns());
    w->e->asleep_ns = 0; /* awake: who arms a timer need not wake us */
    jv_clock_run(w->e, NATIVE_TICK_SESSIONS);
}

/* Until when worker 0 may sleep; from now on it is woken for anything sooner. */
static uint64_t next_deadline(struct jv_engine *e) {
    JV_HOLD(e, 0);
    e->asleep_ns = jv_wheel_next_deadline(&e->wheel);
    return e->asleep_ns;
}

static int wait_for(struct jv_worker *w, struct epoll_event *ready) {
    const uint64_t until_ns = w->number == 0 ? next_deadline(w->e) : JV_WHEEL_NEVER;
    if (until_ns == JV_WHEEL_NEVER)
        return epoll_pwait2(w->epoll_fd, ready, READY_MAX, NULL, NULL);
    const uint64_t now_ns = boottime_ns(), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    const struct timespec timeout = {.tv_sec = (time_t)(left_ns / JV_NS_PER_S),
                                     .tv_nsec = (long)(left_ns % JV_NS_PER_S)};
    return epoll_pwait2(w->epoll_fd, ready, READY_MAX, &timeout, NULL);
}

static void count_wakeup(struct jv_worker *w) {
    JV_HOLD(w->e, 0);
    w->wakeups++;
}

/* A worker has work for some ten microseconds and waits again. Who asks for short turns gets them sooner than
 * one who computes (EEVDF, Linux 6.12): a handshake in Python does not hold packets up. Elsewhere nothing
 * comes of it, and nothing is lost. */
static void ask_for_short_turns(void) {
    struct sched_attributes attr = {.size = sizeof attr};
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0)
        return;
    attr.runtime_ns = SHORT_TURN_NS;
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *run(void *worker) {
    struct jv_worker *w = worker;
    struct epoll_event ready[READY_MAX];
    ask_for_short_turns();
    while (!atomic_load(&w->e->stopping)) {
        const int n = wait_for(w, ready);
        atomic_fetch_add(&w->turn, 1);
        if (w->number == 0)
            run_timers(w);
        serve(w, ready, n);
        count_wakeup(w);
        atomic_fetch_add(&w->turn, 1);
    }
    return NULL;
}

/* --- starting and stopping
 * -------------------------------------------------------------------------------------- */

static int open_descriptors(struct jv_worker *w) {
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->epoll_fd < 0 || w->wake_fd < 0)
        return -errno;
    int error = watch(w, w->wake_fd, WAKE);
    if (error == 0)
        error = watch(w, w->tun_fd, DEVICE);
    for (int id = 0; id < JV_SOCKETS_MAX && error == 0; id++)
        if (w->e->sockets[id].fd[0] >= 0)
            error = watch(w, w->e->sockets[id].fd[w->number], (uint32_t)id);
    return error;
}

static void close_descriptors(struct jv_worker *w) {
    if (w->epoll_fd >= 0)
        (void)close(w->epoll_fd);
    if (w->wake_fd >= 0)
        (void)close(w->wake_fd);
    w->epoll_fd = w->wake_fd = -1;
}

/* Signals are for Python's thread. */
static int start_thread(struct jv_worker *w) {
    sigset_t all, before;
    char name[16];
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&w->thread, NULL, run, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return -error;
    w->started = true;
    (void)snprintf(name, sizeof name, "jvpn-worker-%u", w->number);
    (void)pthread_setname_np(w->thread, name);
    return 0;
}

static int open_all(struct jv_engine *e) {
    JV_HOLD(e, 0);
    int error = 0;
    for (unsigned i = 0; i < e->workers_used && error == 0; i++)
        error = open_descriptors(&e->workers[i]);
    e->workers_started = error == 0;
    return error;
}

int jv_engine_start_workers(struct jv_engine *e) {
    if (e->workers_used == 0 || !e->own.tx.arena || e->workers_started)
        return -EINVAL;
    atomic_store(&e->stopping, false);
    int error = open_all(e);
    for (unsigned i = 0; i < e->workers_used && error == 0; i++)
        error = start_thread(&e->workers[i]);
    if (error != 0)
        jv_engine_stop_workers(e);
    return error;
}

static void close_all(struct jv_engine *e) {
    JV_HOLD(e, 0);
    for (unsigned i = 0; i < e->workers_used; i++)
        close_descriptors(&e->workers[i]);
    e->workers_started = false;
}

void jv_engine_stop_workers(struct jv_engine *e) {
    atomic_store(&e->stopping, true);
    for (unsigned i = 0; i < e->workers_used; i++)
        jv_worker_wake(&e->workers[i]);
    for (unsigned i = 0; i < e->workers_used; i++) {
        if (e->workers[i].started)
            (void)pthread_join(e->workers[i].thread, NULL);
        e->workers[i].started = false;
    }
    close_all(e);
}

/* --- what Python sees
 * ------------------------------------------------------------------------------------------- */

unsigned jv_engine_worker_count(const struct jv_engine *e) {
    return e->workers_used;
}

int jv_engine_event_fd(const struct jv_engine *e) {
    return e->event_fd;
}

void jv_engine_clear_event(struct jv_engine *e) {
    eventfd_t ignored;
    JV_HOLD(e, 0);
    if (e->event_fd >= 0)
        (void)eventfd_read(e->event_fd, &ignored);
    e->told_of_news = false;
}

static uint64_t cpu_ns(const struct jv_worker *w) {
    struct timespec used;
    clockid_t clock;
    if (!w->started || pthread_getcpuclockid(w->thread, &clock) != 0 || clock_gettime(clock, &used) != 0)
        return 0;
    return (uint64_t)used.tv_sec * JV_NS_PER_S + (uint64_t)used.tv_nsec;
}

int jv_engine_worker_stats(struct jv_engine *e, unsigned number, struct jv_worker_stats *out) {
    JV_HOLD(e, 0);
    if (number >= e->workers_used)
        return -ENOENT;
    const struct jv_worker *w = &e->workers[number];
    *out = (struct jv_worker_stats){.wakeups = w->wakeups,
                                    .rx_datagrams = w->rx_datagrams,
                                    .tx_datagrams = w->tx_datagrams,
                                    .cpu_ns = cpu_ns(w)};
    return 0;
}
