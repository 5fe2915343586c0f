/* SPDX-License-Identifier: Apache-2.0 */
/* Words of the control language. Every function refuses what it does not understand completely. */
#include "relay.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct rl_unit {
    const char *suffix;
    double factor;
};

int64_t rl_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * RL_NS_PER_S + now.tv_nsec;
}

socklen_t rl_addr_size(const union rl_addr *addr) {
    return addr->sa.sa_family == AF_INET6 ? sizeof addr->v6 : sizeof addr->v4;
}

bool rl_addr_equal(const union rl_addr *a, const union rl_addr *b) {
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
           !memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof a->v6.sin6_addr);
}

static bool rl_parse_number(const char *text, const struct rl_unit *units, double *value) {
    char *end;
    *value = strtod(text, &end);
    if (end == text || !(*value >= 0.0) || *value > 1e18)
        return false;
    for (; units->suffix; units++)
        if (!strcmp(end, units->suffix)) {
            *value *= units->factor;
            return true;
        }
    return false;
}

bool rl_parse_ns(const char *text, int64_t *ns) {
    static const struct rl_unit units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {NULL, 0}};
    double value;
    if (!strcmp(text, "0")) {
        *ns = 0;
        return true;
    }
    if (!rl_parse_number(text, units, &value) || value > 3.6e12)
        return false;
    *ns = (int64_t)value;
    return true;
}

static bool rl_parse_count(const char *text, const struct rl_unit *units, uint64_t *count) {
    double value;
    if (!rl_parse_number(text, units, &value))
        return false;
    *count = (uint64_t)value;
    return true;
}

static bool rl_parse_probability(const char *text, double *value) {
    static const struct rl_unit units[] = {{"", 1}, {"%", 0.01}, {NULL, 0}};
    return rl_parse_number(text, units, value) && *value <= 1.0;
}

/* ge=P,R[,BAD[,GOOD]] */
static bool rl_parse_ge(const char *text, struct rl_rule *rule) {
    double *const fields[] = {&rule->ge_p, &rule->ge_r, &rule->ge_bad, &rule->ge_good};
    char copy[128];
    size_t given = 0;
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    for (char *rest = copy, *word; (word = strsep(&rest, ",")); given++)
        if (given >= 4 || !rl_parse_probability(word, fields[given]))
            return false;
    return given >= 2;
}

bool rl_parse_types(const char *text, uint64_t types[4]) {
    if (!strcmp(text, "all")) {
        memset(types, 0xff, 4 * sizeof *types);
        return true;
    }
    memset(types, 0, 4 * sizeof *types);
    for (;;) {
        char *end;
        unsigned long type = strtoul(text, &end, 10);
        if (end == text || type > 255)
            return false;
        types[type >> 6] |= 1ULL << (type & 63);
        if (!*end)
            return true;
        if (*end != '+')
            return false;
        text = end + 1;
    }
}

static bool rl_parse_size(const char *key, const char *value, struct rl_rule *rule, bool *ok) {
    static const struct rl_unit rates[] = {
        {"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {NULL, 0}};
    static const struct rl_unit plain[] = {{"", 1}, {NULL, 0}};
    uint64_t count = 0;
    if (!strcmp(key, "rate"))
        *ok =
            !strcmp(value, "0") ? (rule->rate_bps = 0, true) : rl_parse_count(value, rates, &rule->rate_bps);
    else if (!strcmp(key, "queue"))
        *ok = rl_parse_count(value, plain, &rule->queue_bytes);
    else if (!strcmp(key, "mtu"))
        *ok = rl_parse_count(value, plain, &count) && count <= 65575 ? (rule->mtu = (uint32_t)count, true)
                                                                     : false;
    else if (!strcmp(key, "ordered"))
        *ok = rl_parse_count(value, plain, &count) && count <= 1 ? (rule->ordered = count, true) : false;
    else
        return false;
    return true;
}

/* KEY=VALUE of the `set` command. */
bool rl_parse_setting(struct rl_rule *rule, const char *word) {
    const struct {
        const char *key;
        double *probability;
        int64_t *ns;
    } plain[] = {{"loss", &rule->loss, NULL},
                 {"dup", &rule->duplicate, NULL},
                 {"corrupt", &rule->corrupt, NULL},
                 {"reorder", &rule->reorder, NULL},
                 {"delay", NULL, &rule->delay_ns},
                 {"jitter", NULL, &rule->jitter_ns},
                 {"reorder_delay", NULL, &rule->reorder_ns}};
    const char *value = strchr(word, '=');
    char key[16];
    bool ok = false;
    if (!value || (size_t)(value - word) >= sizeof key)
        return false;
    memcpy(key, word, (size_t)(value - word));
    key[value++ - word] = 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(key, plain[i].key))
            return plain[i].ns ? rl_parse_ns(value, plain[i].ns)
                               : rl_parse_probability(value, plain[i].probability);
    if (!strcmp(key, "ge"))
        return rl_parse_ge(value, rule);
    if (!strcmp(key, "types"))
        return rl_parse_types(value, rule->types);
    return rl_parse_size(key, value, rule, &ok) && ok;
}

bool rl_parse_addr(const char *text, union rl_addr *addr) {
    char host[64];
    const char *port = strrchr(text, ':');
    bool bracket = *text == '[', six = strchr(text, ':') != strrchr(text, ':');
    if (bracket)
        port = strstr(text, "]:") ? strstr(text, "]:") + 1 : NULL;
    else if (six)
        port = NULL;
    size_t length = port ? (size_t)(port - text) : strlen(text);
    if (length >= sizeof host)
        return false;
    memcpy(host, text, length);
    host[length] = 0;
    if (bracket) {
        host[strcspn(host, "]")] = 0;
        memmove(host, host + 1, strlen(host));
    }
    unsigned long number = port ? strtoul(port + 1, NULL, 10) : 0;
    memset(addr, 0, sizeof *addr);
    addr->sa.sa_family = six ? AF_INET6 : AF_INET;
    if (six)
        addr->v6.sin6_port = htons((uint16_t)number);
    else
        addr->v4.sin_port = htons((uint16_t)number);
    void *where = six ? (void *)&addr->v6.sin6_addr : (void *)&addr->v4.sin_addr;
    return number <= 65535 && inet_pton(addr->sa.sa_family, host, where) == 1;
}

int rl_parse_hex(const char *text, uint8_t *out, size_t size) {
    static const char digits[] = "0123456789abcdef";
    size_t count = 0;
    for (; text[0] && text[1]; text += 2) {
        const char *high = strchr(digits, text[0]), *low = strchr(digits, text[1]);
        if (!high || !low || count == size)
            return -1;
        out[count++] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return *text ? -1 : (int)count;
}

static int rl_stats_way(const struct rl_dir *dir, const char *name, char *reply, size_t size) {
    const struct rl_counters *c = &dir->counters;
    const uint64_t *fate = c->fate;
    typedef unsigned long long u64;
    return snprintf(
        reply, size,
        "\"%s\": {\"packets\": %llu, \"bytes\": %llu, \"sent\": %llu, \"sent_bytes\": %llu, \"queued\": %u, "
        "\"duplicated\": %llu, \"corrupted\": %llu, \"reordered\": %llu, \"copied\": %llu, \"back\": %llu, "
        "\"blackhole\": %llu, \"mtu\": %llu, \"loss\": %llu, \"burst_loss\": %llu, \"rate\": %llu, "
        "\"queue_full\": %llu, "
        "\"no_flow\": %llu, \"oversize\": %llu, \"send_error\": %llu, \"stolen\": %llu, \"recorded\": %u}, ",
        name, (u64)c->packets, (u64)c->bytes, (u64)c->sent, (u64)c->sent_bytes, dir->queue.count,
        (u64)c->duplicated, (u64)c->corrupted, (u64)c->reordered, (u64)c->copied, (u64)c->back,
        (u64)fate[RL_BLACKHOLE], (u64)fate[RL_MTU], (u64)fate[RL_LOSS], (u64)fate[RL_BURST_LOSS],
        (u64)fate[RL_RATE], (u64)fate[RL_QUEUE_FULL], (u64)fate[RL_NO_FLOW], (u64)fate[RL_OVERSIZE],
        (u64)fate[RL_SEND_ERROR], (u64)fate[RL_STOLEN], dir->tape.count);
}

void rl_stats(const struct rl_relay *relay, char *reply, size_t size) {
    size_t at = 0;
    reply[at++] = '{';
    at += (size_t)rl_stats_way(&relay->dir[RL_UP], "up", reply + at, size - at);
    at += (size_t)rl_stats_way(&relay->dir[RL_DOWN], "down", reply + at, size - at);
    snprintf(reply + at, size - at,
             "\"flows\": %u, \"forgotten\": %llu, \"rebinds\": %llu, \"source\": %u, \"seed\": %llu}",
             relay->flow_count, (unsigned long long)relay->forgotten, (unsigned long long)relay->rebinds,
             relay->source_now, (unsigned long long)relay->seed);
}
