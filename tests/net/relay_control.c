/* SPDX-License-Identifier: Apache-2.0 */
/* Text commands over a UNIX SOCK_SEQPACKET socket, one reply each: "ok NOW_NS", "error TEXT", JSON or
 * hexadecimal. NOW_NS is CLOCK_MONOTONIC when the command took effect.
 *
 *   set up|down|both KEY=VALUE...     loss dup corrupt reorder (0..1 or %), ge=P,R[,BAD[,GOOD]], delay jitter
 * reorder_delay (ns us ms s), rate (kbit mbit gbit) queue mtu (bytes) ordered (0 1) types (1+4 or all) clear
 * up|down|both                a perfect wire again blackhole up|down|both|none       swallow everything
 *   rebind port | rebind addr [ADDR]  new mapping: new port, next address of the list or the one given
 *   attack up|down off                stop copying
 *   attack up|down from=ADDR[:PORT] [count=N] [delay=T] [only=1] [back=1] [types=...]
 *   record up|down N                  keep the next N datagrams; 0 forgets
 *   recorded up|down INDEX            one of them in hexadecimal
 *   replay up|down INDEX [count=N] [from=ADDR[:PORT]] [flow=K]
 *   inject up|down HEX   [count=N] [from=ADDR[:PORT]] [flow=K]
 *   seed N                            start the numbering of decisions again
 *   log PATH | log off                a line per decision
 *   source | stats | quit */
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define RL_WORDS      32
#define RL_LINE_BYTES 160000 /* a 64 KB datagram in hexadecimal and its options */

struct rl_reply {
    char *text;
    size_t size;
};

typedef bool (*rl_handler)(struct rl_relay *relay, char **words, int count, struct rl_reply reply);

static bool rl_refuse(struct rl_reply reply, const char *text, const char *what) {
    snprintf(reply.text, reply.size, "error %s: %.60s", text, what ? what : "");
    return false;
}

/* Bit set of directions: 1 up, 2 down; 0 when the word is neither. */
static unsigned rl_ways(const char *word) {
    if (!word)
        return 0;
    return !strcmp(word, "up") ? 1 : !strcmp(word, "down") ? 2 : !strcmp(word, "both") ? 3 : 0;
}

static bool rl_do_set(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    unsigned ways = rl_ways(words[1]);
    if (!ways || count < 3)
        return rl_refuse(reply, "set up|down|both KEY=VALUE", words[1]);
    for (unsigned way = 0; way < RL_WAYS; way++) {
        /* All settings of a command or none of them. */
        struct rl_rule rule = relay->dir[way].rule;
        for (int i = 2; i < count; i++)
            if (!rl_parse_setting(&rule, words[i]))
                return rl_refuse(reply, "bad setting", words[i]);
        if (ways >> way & 1)
            relay->dir[way].rule = rule;
    }
    return true;
}

static bool rl_do_clear(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    unsigned ways = rl_ways(words[1]);
    if (!ways || count != 2)
        return rl_refuse(reply, "clear up|down|both", words[1]);
    for (unsigned way = 0; way < RL_WAYS; way++)
        if (ways >> way & 1) {
            rl_rule_reset(&relay->dir[way].rule);
            relay->dir[way].ge_bad_now = false;
        }
    return true;
}

static bool rl_do_blackhole(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    unsigned ways = rl_ways(words[1]);
    if (count != 2 || (!ways && strcmp(words[1], "none")))
        return rl_refuse(reply, "blackhole up|down|both|none", words[1]);
    for (unsigned way = 0; way < RL_WAYS; way++)
        relay->dir[way].rule.blackhole = ways >> way & 1;
    return true;
}

static bool rl_do_rebind(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    bool address = count >= 2 && !strcmp(words[1], "addr");
    if (!address && (count != 2 || strcmp(words[1], "port")))
        return rl_refuse(reply, "rebind port|addr", words[1]);
    if (address && count == 3) {
        union rl_addr given;
        if (!rl_parse_addr(words[2], &given))
            return rl_refuse(reply, "bad address", words[2]);
        relay->sources[0] = given;
        relay->source_count = relay->source_count ? relay->source_count : 1;
        relay->source_now = 0;
    } else if (address && relay->source_count > 1) {
        relay->source_now = (relay->source_now + 1) % relay->source_count;
    } else if (address) {
        return rl_refuse(reply, "rebind addr", "started with fewer than two --source");
    }
    return rl_net_rebind(relay) ? rl_refuse(reply, "rebind", strerror(errno)) : true;
}

static bool rl_attack_word(struct rl_attack *attack, const char *word) {
    const char *value = strchr(word, '=');
    if (!value++)
        return false;
    if (!strncmp(word, "from=", 5))
        return rl_parse_addr(value, &attack->source);
    if (!strncmp(word, "delay=", 6))
        return rl_parse_ns(value, &attack->delay_ns);
    if (!strncmp(word, "types=", 6))
        return rl_parse_types(value, attack->types);
    if (!strncmp(word, "count=", 6))
        attack->left = strtoll(value, NULL, 10);
    else if (!strncmp(word, "only=", 5))
        attack->only = *value == '1';
    else if (!strncmp(word, "back=", 5))
        attack->forward_back = *value == '1';
    else
        return false;
    return true;
}

static bool rl_do_attack(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    unsigned ways = rl_ways(words[1]);
    if (ways != 1 && ways != 2)
        return rl_refuse(reply, "attack up|down", words[1]);
    struct rl_attack attack = {.left = -1}, *current = &relay->dir[ways - 1].attack;
    if (count == 3 && !strcmp(words[2], "off")) {
        current->active = false;
        return true;
    }
    memset(attack.types, 0xff, sizeof attack.types);
    for (int i = 2; i < count; i++)
        if (!rl_attack_word(&attack, words[i]))
            return rl_refuse(reply, "bad word", words[i]);
    if (!attack.source.sa.sa_family)
        return rl_refuse(reply, "attack", "from=ADDR is missing");
    if (!attack.source.v4.sin_port && ways == 2)
        attack.source.v4.sin_port = relay->listen.v4.sin_port;
    attack.active = true;
    *current = attack;
    if (rl_net_attack(relay, ways - 1))
        return rl_refuse(reply, "attack", strerror(errno));
    return true;
}

static bool rl_do_record(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    unsigned ways = rl_ways(words[1]);
    unsigned long wanted = count == 3 ? strtoul(words[2], NULL, 10) : RL_TAPE + 1;
    if ((ways != 1 && ways != 2) || wanted > RL_TAPE)
        return rl_refuse(reply, "record up|down N", words[1]);
    relay->dir[ways - 1].tape.count = 0;
    relay->dir[ways - 1].tape.wanted = (uint32_t)wanted;
    return true;
}

static const uint8_t *rl_taped(const struct rl_relay *relay, char **words, int count, uint32_t *size) {
    unsigned ways = rl_ways(words[1]);
    if ((ways != 1 && ways != 2) || count < 3)
        return NULL;
    const struct rl_tape *tape = &relay->dir[ways - 1].tape;
    unsigned long index = strtoul(words[2], NULL, 10);
    if (index >= tape->count)
        return NULL;
    *size = tape->size[index];
    return tape->data + index * relay->slot_bytes;
}

static bool rl_do_recorded(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    uint32_t size;
    const uint8_t *data = rl_taped(relay, words, count, &size);
    if (!data)
        return rl_refuse(reply, "recorded", "no such datagram");
    for (uint32_t i = 0; i < size && 2 * i + 3 < reply.size; i++)
        sprintf(reply.text + 2 * i, "%02x", data[i]);
    return false;
}

static bool rl_send_words(struct rl_relay *relay, char **words, int count, struct rl_reply reply,
                          const uint8_t *data, uint32_t size) {
    unsigned ways = rl_ways(words[1]);
    unsigned long copies = 1, flow = 0;
    union rl_addr from = {0};
    for (int i = 3; i < count; i++) {
        if (!strncmp(words[i], "count=", 6))
            copies = strtoul(words[i] + 6, NULL, 10);
        else if (!strncmp(words[i], "flow=", 5))
            flow = strtoul(words[i] + 5, NULL, 10);
        else if (strncmp(words[i], "from=", 5) || !rl_parse_addr(words[i] + 5, &from))
            return rl_refuse(reply, "bad word", words[i]);
    }
    const union rl_addr *source = from.sa.sa_family ? &from : NULL;
    if (rl_net_inject(relay, ways - 1, (uint32_t)flow, source, data, size, (uint32_t)copies))
        return rl_refuse(reply, "no such flow or source", strerror(errno));
    return true;
}

static bool rl_do_replay(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    uint32_t size;
    const uint8_t *data = rl_taped(relay, words, count, &size);
    if (!data)
        return rl_refuse(reply, "replay", "no such datagram");
    return rl_send_words(relay, words, count, reply, data, size);
}

static bool rl_do_inject(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    static uint8_t data[65536];
    unsigned ways = rl_ways(words[1]);
    int size = (ways == 1 || ways == 2) && count >= 3 ? rl_parse_hex(words[2], data, sizeof data) : -1;
    if (size < 0)
        return rl_refuse(reply, "inject up|down HEX", words[1]);
    return rl_send_words(relay, words, count, reply, data, (uint32_t)size);
}

static bool rl_do_seed(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    if (count != 2)
        return rl_refuse(reply, "seed", "N");
    relay->seed = strtoull(words[1], NULL, 10);
    for (unsigned way = 0; way < RL_WAYS; way++) {
        relay->dir[way].seed = relay->seed * 2 + way;
        relay->dir[way].number = 0;
        relay->dir[way].ge_bad_now = false;
    }
    return true;
}

static bool rl_do_log(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    if (count != 2)
        return rl_refuse(reply, "log", "PATH|off");
    if (relay->log)
        fclose(relay->log);
    relay->log = strcmp(words[1], "off") ? fopen(words[1], "we") : NULL;
    return relay->log || !strcmp(words[1], "off") ? true : rl_refuse(reply, words[1], strerror(errno));
}

/* The local address of each flow's upstream socket, as the gateway sees it. */
static bool rl_do_source(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    (void)words, (void)count;
    size_t at = (size_t)snprintf(reply.text, reply.size, "[");
    for (uint32_t i = 0; i < relay->flow_count && at + 80 < reply.size; i++) {
        union rl_addr own = {0};
        socklen_t size = sizeof own;
        char host[INET6_ADDRSTRLEN] = "";
        getsockname(relay->flows[i].upstream, &own.sa, &size);
        bool six = own.sa.sa_family == AF_INET6;
        inet_ntop(own.sa.sa_family, six ? (void *)&own.v6.sin6_addr : (void *)&own.v4.sin_addr, host,
                  sizeof host);
        at += (size_t)snprintf(reply.text + at, reply.size - at, "%s[\"%s\", %u]", i ? ", " : "", host,
                               ntohs(six ? own.v6.sin6_port : own.v4.sin_port));
    }
    snprintf(reply.text + at, reply.size - at, "]");
    return false;
}

static bool rl_do_stats(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    (void)words, (void)count;
    if (relay->log)
        fflush(relay->log);
    rl_stats(relay, reply.text, reply.size);
    return false;
}

static bool rl_do_quit(struct rl_relay *relay, char **words, int count, struct rl_reply reply) {
    (void)words, (void)count, (void)reply;
    relay->quit = true;
    return true;
}

static const struct {
    const char *name;
    rl_handler handler;
} rl_commands[] = {
    {"set", rl_do_set},           {"clear", rl_do_clear},   {"blackhole", rl_do_blackhole},
    {"rebind", rl_do_rebind},     {"attack", rl_do_attack}, {"record", rl_do_record},
    {"recorded", rl_do_recorded}, {"replay", rl_do_replay}, {"inject", rl_do_inject},
    {"seed", rl_do_seed},         {"log", rl_do_log},       {"source", rl_do_source},
    {"stats", rl_do_stats},       {"quit", rl_do_quit},
};

/* A handler that returns true has done it and left the reply to us. */
void rl_command(struct rl_relay *relay, char *line, char *reply, size_t reply_size) {
    char *words[RL_WORDS + 1] = {0}, *rest = line, *word;
    int count = 0;
    struct rl_reply answer = {reply, reply_size};
    while (count < RL_WORDS && (word = strsep(&rest, " \n")))
        if (*word)
            words[count++] = word;
    reply[0] = 0;
    for (size_t i = 0; count && i < sizeof rl_commands / sizeof *rl_commands; i++)
        if (!strcmp(words[0], rl_commands[i].name)) {
            if (rl_commands[i].handler(relay, words, count, answer))
                snprintf(reply, reply_size, "ok %lld", (long long)rl_now_ns());
            return;
        }
    rl_refuse(answer, "unknown command", words[0]);
}

int rl_control_open(struct rl_relay *relay, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    relay->control_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (relay->control_fd < 0 || bind(relay->control_fd, (struct sockaddr *)&address, sizeof address) ||
        listen(relay->control_fd, 8))
        return -1;
    return rl_watch(relay, relay->control_fd, RL_CONTROL, 0);
}

void rl_control_accept(struct rl_relay *relay) {
    int fd = accept4(relay->control_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0 && rl_watch(relay, fd, RL_CONVERSATION, (uint32_t)fd))
        close(fd);
}

void rl_control_serve(struct rl_relay *relay, int fd) {
    static char line[RL_LINE_BYTES], reply[RL_LINE_BYTES];
    ssize_t size = recv(fd, line, sizeof line - 1, 0);
    if (size <= 0) {
        close(fd);
        return;
    }
    line[size] = 0;
    rl_command(relay, line, reply, sizeof reply);
    if (send(fd, reply, strlen(reply), MSG_NOSIGNAL) < 0)
        close(fd);
}
