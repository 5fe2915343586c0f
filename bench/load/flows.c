/* SPDX-License-Identifier: Apache-2.0 */
/* Many small flows at a rate that nothing slows down, and when each of their echoes came back:
 *
 *   flows --flows N --first n --rate R --bytes S --seconds T [--random SEED] [--port P]
 *         [--source ADDRESS] [--target ADDRESS]
 *
 * Flow n goes from SOURCE + n to TARGET + n; R packets a second in all, the flows in turn or, with --random,
 * each with equal chances. Prints a line of JSON when it begins, one for each second, three seconds after it
 * has begun (only packets that were due in that second), and one with everything at the end, which SIGINT or
 * SIGTERM bring forward.
 *
 * Rule: open loop. A packet carries the time at which it was due, its latency counts from then, and one that
 * the kernel refuses is lost: a stall of this program or of the kernel is never taken out of the figures.
 * Rule: nothing is allocated once it runs. */
#include "flows.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/prctl.h>

#include "histogram.h"

#define FL_MAGIC      0x6a766c66U
#define FL_DATA_BYTES 1472U
#define FL_LATE_NS    1000000LL /* who was kept from sending for longer says so */
#define FL_WAKE_US    20000
#define FL_GRACE_S    2 /* after the end of a second until its line */
#define FL_RING       (FL_GRACE_S + 2)
#define FL_DRAIN_NS   (FL_GRACE_S * FL_NS_PER_S)
#define FL_QUIET_NS   (FL_NS_PER_S / 2)
#define FL_SEEN       (1U << 24) /* packets of which a second copy is recognised: minutes */
#define FL_MOST_S     86400U

struct fl_plan {
    uint32_t flows, first, bytes, source, target;
    uint64_t rate, seconds, seed;
    bool random;
    uint16_t port;
};

/* What travels; both ends are this process, so in its own order. */
struct fl_packet {
    uint32_t magic, flow;
    uint64_t number;
    int64_t due_ns;
};

struct fl_second {
    _Atomic uint32_t sent, late;
    uint32_t received;
};

static struct fl_plan plan = {.flows = 1,
                              .bytes = 36,
                              .source = 0x0a100000,
                              .target = 0x0a300000,
                              .rate = 1000,
                              .seconds = 1,
                              .port = 7007};
static struct fl_second *seconds;
static struct fl_histogram all, ring[FL_RING];
static uint64_t seen[FL_SEEN / 64];
static uint64_t next_unseen, received, duplicates, wrong, ancient;
static _Atomic uint64_t refused;
static _Atomic int64_t latest_ns; /* the longest that a packet left after it was due */
static int64_t start_ns;
static atomic_bool stopping, sent_all;

/* --- sending
 * ------------------------------------------------------------------------------------------------ */

static uint64_t fl_mix(uint64_t value) { /* splitmix64's finisher */
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

static uint32_t fl_flow(uint64_t number) {
    if (!plan.random)
        return plan.first + (uint32_t)(number % plan.flows);
    uint64_t chance = fl_mix((number + 1) * 0x9e3779b97f4a7c15ULL + plan.seed) >> 32;
    return plan.first + (uint32_t)(chance * plan.flows >> 32);
}

/* The tick at which packet `number` is due. */
static int64_t fl_due_ns(uint64_t number) {
    int64_t exact_ns = (int64_t)((double)number * (double)FL_NS_PER_S / (double)plan.rate);
    return start_ns + exact_ns / FL_TICK_NS * FL_TICK_NS;
}

static void fl_fill(struct mmsghdr *message, struct fl_control *control, uint64_t number, int64_t due_ns) {
    uint32_t flow = fl_flow(number);
    struct fl_packet packet = {FL_MAGIC, flow, number, due_ns};
    struct sockaddr_in *to = message->msg_hdr.msg_name;
    to->sin_addr.s_addr = htonl(plan.target + flow);
    fl_set_source(&message->msg_hdr, control, htonl(plan.source + flow));
    memcpy(message->msg_hdr.msg_iov->iov_base, &packet, sizeof packet);
}

static void fl_note_sent(int64_t due_ns, int64_t now_ns) {
    struct fl_second *second = &seconds[(due_ns - start_ns) / FL_NS_PER_S];
    atomic_fetch_add(&second->sent, 1);
    if (now_ns - due_ns > FL_LATE_NS)
        atomic_fetch_add(&second->late, 1);
    if (now_ns - due_ns > atomic_load(&latest_ns))
        atomic_store(&latest_ns, now_ns - due_ns);
}

static void fl_send(int fd, struct mmsghdr *messages, unsigned count) {
    for (unsigned done = 0; done < count;) {
        int took = sendmmsg(fd, messages + done, count - done, 0);
        atomic_fetch_add(&refused, took > 0 ? 0U : 1U);
        done += took > 0 ? (unsigned)took : 1U;
    }
}

static void *fl_sender(void *argument) {
    static uint8_t data[FL_BATCH][FL_DATA_BYTES];
    static struct sockaddr_in to[FL_BATCH];
    static struct fl_control controls[FL_BATCH];
    static struct iovec iov[FL_BATCH];
    static struct mmsghdr messages[FL_BATCH];
    uint64_t count = plan.rate * plan.seconds;
    for (int i = 0; i < FL_BATCH; i++) {
        to[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(plan.port)};
        iov[i] = (struct iovec){data[i], plan.bytes};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &to[i], .msg_namelen = sizeof to[i], .msg_iov = &iov[i], .msg_iovlen = 1};
    }
    for (uint64_t number = 0; number < count && !atomic_load(&stopping);) {
        int64_t due_ns = fl_due_ns(number), now_ns = fl_now_ns();
        if (due_ns > now_ns) {
            fl_sleep_until(due_ns);
            continue;
        }
        unsigned filled = 0;
        for (; filled < FL_BATCH && number < count && due_ns <= now_ns; filled++, number++) {
            fl_fill(&messages[filled], &controls[filled], number, due_ns);
            fl_note_sent(due_ns, now_ns);
            due_ns = fl_due_ns(number + 1);
        }
        fl_send(*(int *)argument, messages, filled);
    }
    atomic_store(&sent_all, true);
    return NULL;
}

/* --- receiving
 * ---------------------------------------------------------------------------------------------- */

/* False for a packet that has been here. Numbers come nearly in order; the window forgets as it moves on. */
static bool fl_is_first(uint64_t number) {
    for (; next_unseen <= number; next_unseen++)
        seen[next_unseen % FL_SEEN / 64] &= ~(1ULL << (next_unseen % 64));
    if (number + FL_SEEN < next_unseen) {
        ancient++;
        return false;
    }
    uint64_t *word = &seen[number % FL_SEEN / 64], bit = 1ULL << (number % 64);
    bool first = !(*word & bit);
    *word |= bit;
    return first;
}

/* The answer to a packet of this run, through its own flow: everything that can be known of it is compared.
 */
static bool fl_is_ours(const struct fl_packet *packet, struct mmsghdr *message) {
    const struct sockaddr_in *from = message->msg_hdr.msg_name;
    return message->msg_len == plan.bytes && packet->magic == FL_MAGIC &&
           packet->number < plan.rate * plan.seconds && packet->flow == fl_flow(packet->number) &&
           packet->due_ns == fl_due_ns(packet->number) &&
           ntohl(from->sin_addr.s_addr) == plan.target + packet->flow &&
           ntohl(fl_destination(&message->msg_hdr)) == plan.source + packet->flow;
}

static void fl_arrived(const struct fl_packet *packet, int64_t now_ns, int64_t printed) {
    uint64_t us = (uint64_t)((now_ns - packet->due_ns) / FL_NS_PER_US);
    int64_t second = (packet->due_ns - start_ns) / FL_NS_PER_S;
    received++;
    seconds[second].received++;
    fl_add(&all, us);
    if (second >= printed)
        fl_add(&ring[second % FL_RING], us);
}

static void fl_print_buckets(const struct fl_histogram *histogram) {
    const char *comma = "";
    printf("\"buckets\": [");
    for (uint32_t place = 0; place < FL_COUNTS; place++) {
        if (!histogram->counts[place])
            continue;
        printf("%s[%llu, %u]", comma, (unsigned long long)fl_lowest_us(place), histogram->counts[place]);
        comma = ", ";
    }
    puts("]}");
}

/* The line of one second, whose histogram is free again. */
static void fl_print_second(int64_t second) {
    struct fl_histogram *histogram = &ring[second % FL_RING];
    printf("{\"second\": %lld, \"sent\": %u, \"received\": %u, \"late\": %u, \"p50_us\": %llu, \"p99_us\": "
           "%llu, "
           "\"max_us\": %llu, ",
           (long long)second, atomic_load(&seconds[second].sent), seconds[second].received,
           atomic_load(&seconds[second].late), (unsigned long long)fl_percentile(histogram, 0.5),
           (unsigned long long)fl_percentile(histogram, 0.99), (unsigned long long)histogram->most_us);
    fl_print_buckets(histogram);
    fflush(stdout);
    memset(histogram, 0, sizeof *histogram);
}

static int fl_receive(int fd, struct fl_packet *packets, struct mmsghdr *messages) {
    static struct sockaddr_in senders[FL_BATCH];
    static struct fl_control controls[FL_BATCH];
    static struct iovec iov[FL_BATCH];
    for (int i = 0; i < FL_BATCH; i++) {
        iov[i] = (struct iovec){&packets[i], sizeof packets[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &senders[i],
                                              .msg_namelen = sizeof senders[i],
                                              .msg_iov = &iov[i],
                                              .msg_iovlen = 1,
                                              .msg_control = controls[i].data,
                                              .msg_controllen = sizeof controls[i].data};
    }
    /* MSG_TRUNC: the real length of what was not copied (recv(2)). */
    return recvmmsg(fd, messages, FL_BATCH, MSG_WAITFORONE | MSG_TRUNC, NULL);
}

/* Until everything was sent and nothing has come for a while; returns how many seconds have their line. */
static int64_t fl_collect(int fd) {
    static struct fl_packet packets[FL_BATCH];
    static struct mmsghdr messages[FL_BATCH];
    int64_t printed = 0, last_ns = fl_now_ns(), ended_ns = 0;
    for (;;) {
        int got = fl_receive(fd, packets, messages);
        int64_t now_ns = fl_now_ns();
        for (int i = 0; i < got; i++) {
            if (!fl_is_ours(&packets[i], &messages[i]))
                wrong++;
            else if (!fl_is_first(packets[i].number))
                duplicates++;
            else
                fl_arrived(&packets[i], now_ns, printed);
            last_ns = now_ns;
        }
        while (now_ns >= start_ns + (printed + 1 + FL_GRACE_S) * FL_NS_PER_S)
            fl_print_second(printed++);
        if (!ended_ns && atomic_load(&sent_all))
            ended_ns = now_ns;
        if (ended_ns && (now_ns - ended_ns > FL_DRAIN_NS ||
                         (now_ns - ended_ns > FL_QUIET_NS && now_ns - last_ns > FL_QUIET_NS)))
            return printed;
    }
}

/* --- the end
 * ------------------------------------------------------------------------------------------------ */

static void fl_print_all(int64_t printed) {
    uint64_t sent = 0, late = 0;
    int64_t whole = 0;
    for (int64_t second = 0; second < (int64_t)plan.seconds + FL_RING; second++) {
        uint32_t here = atomic_load(&seconds[second].sent);
        sent += here;
        late += atomic_load(&seconds[second].late);
        whole = here ? second + 1 : whole;
    }
    while (printed < whole)
        fl_print_second(printed++);
    printf("{\"done\": true, \"sent\": %llu, \"received\": %llu, \"duplicates\": %llu, \"wrong\": %llu, "
           "\"refused\": %llu, \"late\": %llu, \"late_max_us\": %lld, \"seconds\": %.6f, ",
           (unsigned long long)sent, (unsigned long long)received, (unsigned long long)duplicates,
           (unsigned long long)(wrong + ancient), (unsigned long long)atomic_load(&refused),
           (unsigned long long)late, (long long)(atomic_load(&latest_ns) / FL_NS_PER_US),
           (double)sent / (double)plan.rate);
    static const double shares[] = {0.5, 0.9, 0.99, 0.999};
    static const char *const names[] = {"p50", "p90", "p99", "p999"};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        printf("\"%s_us\": %llu, ", names[i], (unsigned long long)fl_percentile(&all, shares[i]));
    printf("\"max_us\": %llu, ", (unsigned long long)all.most_us);
    fl_print_buckets(&all);
}

static void fl_stop(int number) {
    (void)number;
    atomic_store(&stopping, true);
}

static void fl_read_option(int option, const char *text) {
    switch (option) {
    case 'f':
        plan.flows = (uint32_t)fl_number(text, 1, 1U << 20);
        break;
    case 'n':
        plan.first = (uint32_t)fl_number(text, 0, 1U << 20);
        break;
    case 'r':
        plan.rate = fl_number(text, 1, 10000000);
        break;
    case 'b':
        plan.bytes = (uint32_t)fl_number(text, sizeof(struct fl_packet), FL_DATA_BYTES);
        break;
    case 't':
        plan.seconds = fl_number(text, 1, FL_MOST_S);
        break;
    case 'x':
        plan.random = true;
        plan.seed = fl_number(text, 0, UINT64_MAX);
        break;
    case 'p':
        plan.port = (uint16_t)fl_number(text, 1, UINT16_MAX);
        break;
    case 's':
        plan.source = fl_address(text);
        break;
    case 'd':
        plan.target = fl_address(text);
        break;
    default:
        exit(2);
    }
}

static void fl_read_plan(int argc, char **argv) {
    static const struct option options[] = {
        {"flows", required_argument, NULL, 'f'},   {"first", required_argument, NULL, 'n'},
        {"rate", required_argument, NULL, 'r'},    {"bytes", required_argument, NULL, 'b'},
        {"seconds", required_argument, NULL, 't'}, {"random", required_argument, NULL, 'x'},
        {"port", required_argument, NULL, 'p'},    {"source", required_argument, NULL, 's'},
        {"target", required_argument, NULL, 'd'},  {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        fl_read_option(option, optarg);
    if (optind != argc)
        fl_read_option('?', NULL);
}

int main(int argc, char **argv) {
    fl_read_plan(argc, argv);
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct timeval wake = {.tv_usec = FL_WAKE_US};
    int fd = fl_udp_socket();
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wake, sizeof wake);
    if (bind(fd, (struct sockaddr *)&any, sizeof any))
        fl_die("bind");
    if (!(seconds = calloc(plan.seconds + FL_RING, sizeof *seconds)))
        fl_die("memory");
    struct sigaction stop = {.sa_handler = fl_stop};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    start_ns = fl_now_ns() + FL_TICK_NS;
    printf("{\"start_ns\": %lld, \"rate_per_s\": %llu}\n", (long long)start_ns,
           (unsigned long long)plan.rate);
    fflush(stdout);
    pthread_t sender;
    if ((errno = pthread_create(&sender, NULL, fl_sender, &fd)))
        fl_die("thread");
    int64_t printed = fl_collect(fd);
    pthread_join(sender, NULL);
    fl_print_all(printed);
    return 0;
}
