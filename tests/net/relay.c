/* SPDX-License-Identifier: Apache-2.0 */
/* relay --listen ADDR:PORT --upstream ADDR:PORT --control PATH [--seed N] [--source ADDR]... [--flows N]
 * [--slot BYTES]
 *
 * Prints "ready" when it forwards. Ends on SIGTERM, SIGINT or the command `quit`. See relay.h for what it
 * does. */
#include "relay.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define RL_EVENTS     64
#define RL_SLOT_BYTES 2048
#define RL_SLOT_MAX   65536

static struct rl_relay relay;
static volatile sig_atomic_t stopped;

static void rl_stop(int number) {
    (void)number;
    stopped = 1;
}

static int rl_die(const char *what) {
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    return 1;
}

static bool rl_option(int option, const char *value, const char **control) {
    switch (option) {
    case 'l':
        return rl_parse_addr(value, &relay.listen);
    case 'u':
        return rl_parse_addr(value, &relay.upstream);
    case 'c':
        *control = value;
        return true;
    case 's':
        relay.seed = strtoull(value, NULL, 10);
        return true;
    case 'a':
        return relay.source_count < RL_SOURCES && rl_parse_addr(value, &relay.sources[relay.source_count++]);
    case 'f':
        relay.flow_limit = (uint32_t)strtoul(value, NULL, 10);
        return relay.flow_limit >= 1 && relay.flow_limit <= RL_FLOWS;
    case 'b':
        relay.slot_bytes = (uint32_t)strtoul(value, NULL, 10);
        return relay.slot_bytes >= 64 && relay.slot_bytes <= RL_SLOT_MAX;
    default:
        return false;
    }
}

static const char *rl_options(int argc, char **argv) {
    static const struct option options[] = {{"listen", 1, NULL, 'l'},  {"upstream", 1, NULL, 'u'},
                                            {"control", 1, NULL, 'c'}, {"seed", 1, NULL, 's'},
                                            {"source", 1, NULL, 'a'},  {"flows", 1, NULL, 'f'},
                                            {"slot", 1, NULL, 'b'},    {NULL, 0, NULL, 0}};
    const char *control = NULL;
    relay.flow_limit = RL_FLOWS;
    relay.slot_bytes = RL_SLOT_BYTES;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (!rl_option(option, optarg, &control))
            return NULL;
    return relay.listen.sa.sa_family && relay.upstream.sa.sa_family ? control : NULL;
}

static int rl_prepare(void) {
    for (unsigned way = 0; way < RL_WAYS; way++) {
        struct rl_dir *dir = &relay.dir[way];
        rl_rule_reset(&dir->rule);
        dir->seed = relay.seed * 2 + way;
        dir->tape.data = calloc(RL_TAPE, relay.slot_bytes);
        if (!dir->tape.data || rl_queue_init(&dir->queue, relay.slot_bytes))
            return -1;
    }
    return rl_net_open(&relay);
}

/* Time until the first datagram is due; NULL for none. */
static const struct timespec *rl_timeout(int64_t now_ns, struct timespec *room) {
    int64_t due_ns = INT64_MAX;
    for (unsigned way = 0; way < RL_WAYS; way++)
        if (relay.dir[way].queue.count && relay.dir[way].queue.heap[0].due_ns < due_ns)
            due_ns = relay.dir[way].queue.heap[0].due_ns;
    if (due_ns == INT64_MAX)
        return NULL;
    int64_t left_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    *room = (struct timespec){left_ns / RL_NS_PER_S, left_ns % RL_NS_PER_S};
    return room;
}

static void rl_dispatch(uint64_t tag) {
    enum rl_kind kind = (enum rl_kind)(tag >> 32);
    uint32_t index = (uint32_t)tag;
    if (kind == RL_CONTROL)
        rl_control_accept(&relay);
    else if (kind == RL_CONVERSATION)
        rl_control_serve(&relay, (int)index);
    else
        rl_net_event(&relay, kind, index);
}

static int rl_run(void) {
    struct epoll_event events[RL_EVENTS];
    struct timespec room;
    while (!stopped && !relay.quit) {
        int count = epoll_pwait2(relay.epoll, events, RL_EVENTS, rl_timeout(rl_now_ns(), &room), NULL);
        if (count < 0 && errno != EINTR)
            return rl_die("epoll_pwait2");
        for (int i = 0; i < count; i++)
            rl_dispatch(events[i].data.u64);
        rl_net_flush(&relay, rl_now_ns());
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *control = rl_options(argc, argv);
    if (!control) {
        fprintf(stderr, "usage: relay --listen ADDR:PORT --upstream ADDR:PORT --control PATH [--seed N] "
                        "[--source ADDR]..."
                        " [--flows N] [--slot BYTES]\n");
        return 2;
    }
    signal(SIGTERM, rl_stop);
    signal(SIGINT, rl_stop);
    /* The default slack of 50 us would be added to every delay. */
    prctl(PR_SET_TIMERSLACK, 1);
    if (rl_prepare())
        return rl_die("open");
    if (rl_control_open(&relay, control))
        return rl_die(control);
    puts("ready");
    fflush(stdout);
    int status = rl_run();
    if (relay.log)
        fclose(relay.log);
    unlink(control);
    return status;
}
