/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions of the relay. No I/O and no clock: the rate limit gets the time as an argument. */
#include "relay.h"

#include <string.h>

/* Every packet has its own numbered draws, so that switching one impairment on leaves the others' decisions
 * as they were. */
enum rl_draw {
    DRAW_LOSS,
    DRAW_GE_STEP,
    DRAW_GE_LOSS,
    DRAW_DUP,
    DRAW_CORRUPT,
    DRAW_BIT,
    DRAW_REORDER,
    DRAW_JITTER,
    DRAWS = 8
};

void rl_rule_reset(struct rl_rule *rule) {
    memset(rule, 0, sizeof *rule);
    rule->ge_bad = 1.0;
    rule->reorder_ns = 10 * 1000000LL;
    rule->queue_bytes = 256 * 1024;
    memset(rule->types, 0xff, sizeof rule->types);
}

/* The output function of SplitMix64 (Steele, Lea, Flood 2014) over a counter: random access instead of a
 * stream. */
static uint64_t rl_random(uint64_t seed, uint64_t number, enum rl_draw draw) {
    uint64_t x = seed + (number * DRAWS + draw + 1) * 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1). */
static double rl_uniform(const struct rl_dir *dir, enum rl_draw draw) {
    return (double)(rl_random(dir->seed, dir->number, draw) >> 11) * 0x1.0p-53;
}

static bool rl_ge_loses(struct rl_dir *dir) {
    const struct rl_rule *rule = &dir->rule;
    if (rule->ge_p <= 0.0)
        return false;
    double step = rl_uniform(dir, DRAW_GE_STEP);
    if (step < (dir->ge_bad_now ? rule->ge_r : rule->ge_p))
        dir->ge_bad_now = !dir->ge_bad_now;
    return rl_uniform(dir, DRAW_GE_LOSS) < (dir->ge_bad_now ? rule->ge_bad : rule->ge_good);
}

static enum rl_fate rl_fate_of(struct rl_dir *dir, uint32_t ip_bytes) {
    const struct rl_rule *rule = &dir->rule;
    bool burst = rl_ge_loses(dir);
    if (rule->blackhole)
        return RL_BLACKHOLE;
    if (rule->mtu && ip_bytes > rule->mtu)
        return RL_MTU;
    if (rl_uniform(dir, DRAW_LOSS) < rule->loss)
        return RL_LOSS;
    return burst ? RL_BURST_LOSS : RL_PASS;
}

static int64_t rl_delay_of(struct rl_dir *dir, bool reordered) {
    const struct rl_rule *rule = &dir->rule;
    double spread = 2.0 * rl_uniform(dir, DRAW_JITTER) - 1.0;
    int64_t delay_ns = rule->delay_ns + (int64_t)(spread * (double)rule->jitter_ns);
    if (reordered)
        delay_ns += rule->reorder_ns;
    return delay_ns > 0 ? delay_ns : 0;
}

bool rl_type_matches(const uint64_t types[4], const uint8_t *data, uint32_t size) {
    uint8_t type = size ? data[0] : 0;
    return types[type >> 6] >> (type & 63) & 1;
}

struct rl_verdict rl_judge(struct rl_dir *dir, const uint8_t *data, uint32_t size, uint32_t ip_bytes) {
    struct rl_verdict verdict = {.fate = RL_PASS, .corrupt_bit = -1};
    const struct rl_rule *rule = &dir->rule;
    if (rl_type_matches(rule->types, data, size)) {
        verdict.fate = rl_fate_of(dir, ip_bytes);
        verdict.duplicate = rl_uniform(dir, DRAW_DUP) < rule->duplicate;
        verdict.reordered = rl_uniform(dir, DRAW_REORDER) < rule->reorder;
        verdict.delay_ns = rl_delay_of(dir, verdict.reordered);
        if (size && rl_uniform(dir, DRAW_CORRUPT) < rule->corrupt)
            verdict.corrupt_bit = (int32_t)(rl_random(dir->seed, dir->number, DRAW_BIT) % (size * 8ULL));
    }
    dir->number++;
    return verdict;
}

/* A queue of queue_bytes in front of a wire of rate_bps, kept as the time at which the wire will be free. */
bool rl_rate_admit(struct rl_dir *dir, uint32_t size, int64_t now_ns, int64_t *start_ns) {
    const struct rl_rule *rule = &dir->rule;
    *start_ns = now_ns;
    if (!rule->rate_bps)
        return true;
    if (dir->wire_free_ns < now_ns)
        dir->wire_free_ns = now_ns;
    double backlog_bytes = (double)(dir->wire_free_ns - now_ns) * (double)rule->rate_bps / 8e9;
    if (backlog_bytes + size > (double)rule->queue_bytes)
        return false;
    dir->wire_free_ns += (int64_t)((double)size * 8e9 / (double)rule->rate_bps);
    *start_ns = dir->wire_free_ns;
    return true;
}
