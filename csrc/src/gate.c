/* SPDX-License-Identifier: Apache-2.0 */
/* Sources are remembered in Bloom filters of two generations each: the older is wiped when it takes over. At
 * 50,000 messages a second from sources that never repeat, 3 % of them are taken for returning ones. */
#include "jv/gate.h"

#include <sodium.h>
#include <stdlib.h>

#define NS_PER_S UINT64_C(1000000000)

#define SEEN_BITS  (1u << 22)
#define KNOWN_BITS (1u << 21) /* 200,000 sources fill a fifth */
/* A stock client comes again after 5 s and a third of jitter, so the younger half must reach back that far.
 */
#define SEEN_PERIOD_NS  (8 * NS_PER_S)
#define KNOWN_PERIOD_NS (240 * NS_PER_S) /* two rekeys */
#define SOURCE_ROWS     (1u << 14)
#define SOURCE_BURST    32u

_Static_assert(JV_GATE_KEY_BYTES == crypto_shorthash_KEYBYTES, "SipHash-2-4");
_Static_assert(sizeof(uint64_t) == crypto_shorthash_BYTES, "SipHash-2-4");

struct filter {
    uint64_t *words[2]; /* the generation that is filled, and the one before */
    uint32_t bits;
    uint64_t since_ns, period_ns;
};

/* A bucket is one time, when it will be full again (GCRA). */
struct bucket {
    uint64_t full_ns;
};

struct kind {
    uint64_t cost_ns;
    uint32_t burst;
};

enum { KNOWN, ANSWERING, RETURNING, STRANGER, KINDS };

static const struct kind kinds[KINDS] = {
    [KNOWN] = {NS_PER_S / JV_GATE_KNOWN_PER_S, 1024},
    [ANSWERING] = {NS_PER_S / JV_GATE_ANSWERING_PER_S, 256},
    [RETURNING] = {NS_PER_S / JV_GATE_RETURNING_PER_S, 256},
    [STRANGER] = {NS_PER_S / JV_GATE_STRANGER_PER_S, 256},
};
static const struct kind of_source = {NS_PER_S / JV_GATE_SOURCE_PER_S, SOURCE_BURST};

struct jv_gate {
    uint8_t key[JV_GATE_KEY_BYTES];
    struct bucket buckets[KINDS];
    struct bucket *sources;
    struct filter seen, known;
};

/* --- life
 * --------------------------------------------------------------------------------------------------- */

static int open_filter(struct filter *f, uint32_t bits, uint64_t period_ns) {
    f->bits = bits;
    f->period_ns = period_ns;
    for (int i = 0; i < 2; i++)
        f->words[i] = calloc(bits / 64, sizeof *f->words[i]);
    return f->words[0] && f->words[1] ? 0 : -1;
}

static void close_filter(struct filter *f) {
    free(f->words[0]);
    free(f->words[1]);
}

struct jv_gate *jv_gate_new(const uint8_t key[JV_GATE_KEY_BYTES]) {
    struct jv_gate *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    memcpy(g->key, key, sizeof g->key);
    g->sources = calloc(SOURCE_ROWS, sizeof *g->sources);
    const int seen = open_filter(&g->seen, SEEN_BITS, SEEN_PERIOD_NS);
    const int known = open_filter(&g->known, KNOWN_BITS, KNOWN_PERIOD_NS);
    if (g->sources && seen == 0 && known == 0)
        return g;
    jv_gate_free(g);
    return NULL;
}

void jv_gate_free(struct jv_gate *g) {
    if (!g)
        return;
    close_filter(&g->seen);
    close_filter(&g->known);
    free(g->sources);
    sodium_memzero(g->key, sizeof g->key);
    free(g);
}

size_t jv_gate_bytes(const struct jv_gate *g) {
    return sizeof *g + SOURCE_ROWS * sizeof *g->sources + (g->seen.bits + g->known.bits) / 8 * 2;
}

/* --- sources
 * ------------------------------------------------------------------------------------------------ */

/* with_port: of exactly this source; else of its /32 or /64, what one host can have at will. */
static uint64_t hash_of(const struct jv_gate *g, const struct jv_endpoint *from, bool with_port) {
    uint8_t text[19] = {0};
    uint64_t hash;
    if (from->remote.family == AF_INET6) {
        memcpy(text, &from->remote.v6.sin6_addr, with_port ? 16 : 8);
        memcpy(text + 16, &from->remote.v6.sin6_port, with_port ? 2 : 0);
        text[18] = 6;
    } else {
        memcpy(text, &from->remote.v4.sin_addr, 4);
        memcpy(text + 16, &from->remote.v4.sin_port, with_port ? 2 : 0);
        text[18] = 4;
    }
    (void)crypto_shorthash((uint8_t *)&hash, text, sizeof text, g->key);
    return hash;
}

static bool has_bits(const struct filter *f, int generation, uint64_t hash) {
    const uint64_t *words = f->words[generation];
    const uint32_t one = (uint32_t)hash & (f->bits - 1), two = (uint32_t)(hash >> 32) & (f->bits - 1);
    return words[one / 64] >> one % 64 & words[two / 64] >> two % 64 & 1;
}

static bool remembers(const struct filter *f, uint64_t hash) {
    return has_bits(f, 0, hash) || has_bits(f, 1, hash);
}

static void remember(struct filter *f, uint64_t hash) {
    const uint32_t one = (uint32_t)hash & (f->bits - 1), two = (uint32_t)(hash >> 32) & (f->bits - 1);
    f->words[0][one / 64] |= UINT64_C(1) << one % 64;
    f->words[0][two / 64] |= UINT64_C(1) << two % 64;
}

/* Wiping half a megabyte takes 20 us, once in a period in which anybody came. */
static void age(struct filter *f, uint64_t now_ns) {
    const uint64_t passed_ns = now_ns - f->since_ns;
    if (passed_ns < f->period_ns)
        return;
    uint64_t *oldest = f->words[1];
    if (passed_ns >= 2 * f->period_ns)
        memset(f->words[0], 0, f->bits / 8);
    memset(oldest, 0, f->bits / 8);
    f->words[1] = f->words[0];
    f->words[0] = oldest;
    f->since_ns = now_ns;
}

/* --- judging
 * ------------------------------------------------------------------------------------------------ */

static bool has_token(const struct bucket *b, const struct kind *k, uint64_t now_ns) {
    return b->full_ns <= now_ns + (k->burst - 1) * k->cost_ns;
}

static void take_token(struct bucket *b, const struct kind *k, uint64_t now_ns) {
    b->full_ns = (b->full_ns > now_ns ? b->full_ns : now_ns) + k->cost_ns;
}

static int kind_of(const struct jv_gate *g, uint64_t source, bool has_mac2) {
    if (remembers(&g->known, source))
        return KNOWN;
    if (!remembers(&g->seen, source))
        return STRANGER;
    return has_mac2 ? ANSWERING : RETURNING;
}

/* Who forges one known source can use up that source's share only, port and all. */
static struct bucket *row_of(const struct jv_gate *g, const struct jv_endpoint *from, uint64_t source,
                             int kind) {
    const bool exact = kind == KNOWN || kind == ANSWERING;
    return &g->sources[(exact ? source : hash_of(g, from, false)) & (SOURCE_ROWS - 1)];
}

enum jv_gate_verdict jv_gate_judge(struct jv_gate *g, const struct jv_endpoint *from, bool has_mac2,
                                   bool pressed, uint64_t now_ns) {
    const uint64_t source = hash_of(g, from, true);
    age(&g->seen, now_ns);
    age(&g->known, now_ns);
    const int kind = kind_of(g, source, has_mac2);
    struct bucket *row = row_of(g, from, source, kind);
    remember(&g->seen, source);
    if (pressed && !has_token(row, &of_source, now_ns))
        return JV_GATE_OVER_SOURCE;
    if (!has_token(&g->buckets[kind], &kinds[kind], now_ns))
        return JV_GATE_OVER_RATE;
    take_token(row, &of_source, now_ns);
    take_token(&g->buckets[kind], &kinds[kind], now_ns);
    return kind == STRANGER ? JV_GATE_STRANGER : JV_GATE_PRIOR;
}

void jv_gate_expect(struct jv_gate *g, const struct jv_endpoint *to, uint64_t now_ns) {
    age(&g->known, now_ns);
    remember(&g->known, hash_of(g, to, true));
}
