/* SPDX-License-Identifier: Apache-2.0 */
/* Two structures per address family.
 *
 * Host prefixes (/32, /128), which are nearly all of a gateway's, lie in a hash table. No prefix is longer,
 * so a hit there is final: one cache miss. In a trie 100,000 of them cost seventeen dependent loads, 800 ns
 * against 40.
 *
 * All other prefixes are in a path-compressed binary trie. Nodes are 32 bytes, two to a cache line, in one
 * array and named by their position in it, so that growing moves them all at once and a link costs four
 * bytes. Node 0 is no node. Invariant: a node without an owner has two children; hence n prefixes need less
 * than 2n nodes. */
#include "jv/route.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define NO_OWNER     0xffffffu
#define FIRST_NODES  16u
#define FIRST_HOSTS  16u
#define PREFIXES_MAX (UINT32_C(1) << 28) /* node numbers stay well inside 32 bits */

/* Left-aligned: bit 0 of an address is the highest bit of hi. An IPv4 address fills the upper half of hi. */
struct key {
    uint64_t hi, lo;
};

struct node {
    struct key key; /* bits behind len are zero */
    uint32_t child[2];
    uint32_t owner : 24;
    uint32_t len : 8;
};

_Static_assert(sizeof(struct node) == 32, "two nodes to a cache line");

struct trie {
    struct node *nodes;
    uint32_t root;
    uint32_t used;  /* nodes ever taken, node 0 included */
    uint32_t room;  /* nodes allocated */
    uint32_t freed; /* list of returned nodes through child[0] */
};

/* Linear probing, at most three quarters full. */
struct host {
    struct key key;
    uint32_t owner; /* NO_OWNER = empty */
};

struct hosts {
    struct host *rows;
    uint32_t room;  /* a power of two, or 0 */
    uint32_t shift; /* 64 - log2(room) */
    uint32_t used;
};

struct family {
    struct trie trie;
    struct hosts hosts;
};

struct jv_routes {
    struct family v4, v6;
    uint32_t count, max;
};

struct jv_routes *jv_routes_new(uint32_t max_prefixes) {
    struct jv_routes *r = calloc(1, sizeof(*r));

    if (r)
        r->max = max_prefixes < PREFIXES_MAX ? max_prefixes : PREFIXES_MAX;
    return r;
}

void jv_routes_free(struct jv_routes *r) {
    if (!r)
        return;
    free(r->v4.trie.nodes);
    free(r->v6.trie.nodes);
    free(r->v4.hosts.rows);
    free(r->v6.hosts.rows);
    free(r);
}

/* Large tables are read at random: with huge pages a lookup misses the cache but not the TLB as well, which
 * halves it. */
static void *allocate(size_t bytes) {
    const size_t huge = 2u << 20;
    void *memory;

    if (bytes < huge)
        return malloc(bytes);
    bytes = (bytes + huge - 1) / huge * huge;
    memory = aligned_alloc(huge, bytes);
    if (memory)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* advice: without it everything works, slower */
    return memory;
}

/* --- keys
 * -------------------------------------------------------------------------------------------------------- */

static inline unsigned bit_at(struct key key, unsigned position) {
    return (unsigned)(position < 64 ? key.hi >> (63 - position) : key.lo >> (127 - position)) & 1;
}

static inline uint64_t high_bits(unsigned n) {
    return n == 0 ? 0 : UINT64_MAX << (64 - n);
}

static struct key masked(struct key key, unsigned len) {
    key.hi &= high_bits(len < 64 ? len : 64);
    key.lo &= high_bits(len < 64 ? 0 : len - 64);
    return key;
}

/* Leading bits in which a and b agree, 128 when equal. */
static unsigned common_bits(struct key a, struct key b) {
    if (a.hi != b.hi)
        return (unsigned)__builtin_clzll(a.hi ^ b.hi);
    return a.lo != b.lo ? 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo) : 128;
}

static inline bool covers(const struct node *n, struct key key) {
    uint64_t differ_hi = n->key.hi ^ key.hi;

    if (n->len <= 64)
        return (differ_hi & high_bits(n->len)) == 0;
    return differ_hi == 0 && ((n->key.lo ^ key.lo) & high_bits(n->len - 64u)) == 0;
}

static struct key key4(const uint8_t *addr) {
    return (struct key){.hi = (uint64_t)jv_get_be32(addr) << 32};
}

static struct key key6(const uint8_t *addr) {
    return (struct key){.hi = jv_get_be64(addr), .lo = jv_get_be64(addr + 8)};
}

/* --- nodes
 * ------------------------------------------------------------------------------------------------------- */

static struct family *family_of(struct jv_routes *r, const struct jv_prefix *p) {
    if (p->family == 4 && p->len <= 32)
        return &r->v4;
    return p->family == 6 && p->len <= 128 ? &r->v6 : NULL;
}

static bool is_host(const struct jv_prefix *p) {
    return p->len == (p->family == 4 ? 32 : 128);
}

static struct key key_of(const struct jv_prefix *p) {
    return masked(p->family == 4 ? key4(p->addr) : key6(p->addr), p->len);
}

/* An insert takes at most two nodes: making room first means that it cannot fail half way. */
static int make_room(struct trie *t) {
    uint32_t room = t->room ? t->room * 2 : FIRST_NODES;
    struct node *nodes;

    if (t->room && t->room - t->used >= 2)
        return 0;
    nodes = allocate((size_t)room * sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    if (t->used)
        memcpy(nodes, t->nodes, t->used * sizeof(*nodes));
    else
        t->used = 1;
    free(t->nodes);
    t->nodes = nodes;
    t->room = room;
    return 0;
}

static uint32_t take_node(struct trie *t, struct key key, unsigned len, uint32_t owner) {
    uint32_t at = t->freed;

    if (at)
        t->freed = t->nodes[at].child[0];
    else
        at = t->used++;
    t->nodes[at] = (struct node){.key = masked(key, len), .owner = owner, .len = len};
    return at;
}

static void return_node(struct trie *t, uint32_t at) {
    t->nodes[at] = (struct node){.child = {t->freed, 0}, .owner = NO_OWNER};
    t->freed = at;
}

/* --- changes
 * ----------------------------------------------------------------------------------------------------- */

/* The link under which a node of this key and length hangs or would hang: the first whose node is not a
 * shorter prefix of it. *parent: the link above, or NULL. */
static uint32_t *find_link(struct trie *t, struct key key, unsigned len, uint32_t **parent) {
    uint32_t *link = &t->root;

    *parent = NULL;
    while (*link) {
        struct node *n = &t->nodes[*link];

        if (n->len >= len || !covers(n, key))
            break;
        *parent = link;
        link = &n->child[bit_at(key, n->len)];
    }
    return link;
}

/* Hangs a new prefix at link, above or beside what is there. */
static void hang(struct trie *t, uint32_t *link, struct key key, unsigned len, uint32_t slot) {
    uint32_t there = *link, fresh = take_node(t, key, len, slot);
    struct node *old = &t->nodes[there];
    unsigned shared;
    uint32_t fork;

    *link = fresh;
    if (!there)
        return;
    shared = common_bits(key, old->key);
    if (shared >= len) { /* what is there is longer and inside */
        t->nodes[fresh].child[bit_at(old->key, len)] = there;
        return;
    }
    fork = take_node(t, key, shared, NO_OWNER);
    t->nodes[fork].child[bit_at(key, shared)] = fresh;
    t->nodes[fork].child[bit_at(old->key, shared)] = there;
    *link = fork;
}

/* Inserts into the trie. limit: no new prefix is allowed, only a new owner. */
static int insert_prefix(struct trie *t, struct key key, unsigned len, uint32_t slot, bool limit,
                         uint32_t *previous) {
    uint32_t *link, *parent;
    struct node *there;
    bool exact;
    int rc = make_room(t);

    if (rc)
        return rc;
    link = find_link(t, key, len, &parent);
    there = &t->nodes[*link];
    exact = *link && there->len == len && covers(there, key);
    *previous = exact && there->owner != NO_OWNER ? there->owner : JV_ROUTE_NONE;
    if (limit && *previous == JV_ROUTE_NONE)
        return -ENOSPC;
    if (exact)
        there->owner = slot;
    else
        hang(t, link, key, len, slot);
    return 0;
}

/* Takes out a node that lost its owner if the invariant asks for it; true if it went. */
static bool splice(struct trie *t, uint32_t *link) {
    uint32_t at = *link;
    struct node *n = &t->nodes[at];

    if (n->owner != NO_OWNER || (n->child[0] && n->child[1]))
        return false;
    *link = n->child[0] ? n->child[0] : n->child[1];
    return_node(t, at);
    return true;
}

static int remove_prefix(struct trie *t, struct key key, unsigned len, uint32_t slot) {
    uint32_t *parent, *link = find_link(t, key, len, &parent);
    struct node *n;

    if (!*link)
        return -ENOENT;
    n = &t->nodes[*link];
    if (n->len != len || !covers(n, key) || n->owner != slot)
        return -ENOENT;
    n->owner = NO_OWNER;
    if (splice(t, link) && parent)
        splice(t, parent); /* a fork that lost one of its two */
    return 0;
}

/* --- hosts
 * ------------------------------------------------------------------------------------------------------- */

/* Multiplicative hashing by the upper bits (Knuth 6.4): consecutive addresses of a pool spread evenly.
 * Prefixes are configured, not chosen by peers, so no secret is needed. */
static inline uint32_t home_of(const struct hosts *h, struct key key) {
    uint64_t mixed = key.hi ^ (key.hi >> 32) ^ key.lo * UINT64_C(0xbf58476d1ce4e5b9);

    return (uint32_t)(mixed * UINT64_C(0x9e3779b97f4a7c15) >> h->shift);
}

/* The row that holds the key, or the empty one where it would go. The table is never full. */
static inline struct host *find_host(const struct hosts *h, struct key key) {
    for (uint32_t at = home_of(h, key);; at = (at + 1) & (h->room - 1)) {
        struct host *row = &h->rows[at];

        if (row->owner == NO_OWNER || (row->key.hi == key.hi && row->key.lo == key.lo))
            return row;
    }
}

static int make_host_room(struct hosts *h) {
    struct hosts larger = {.room = h->room ? h->room * 2 : FIRST_HOSTS, .used = h->used};

    if (h->used < h->room / 4 * 3)
        return 0;
    larger.shift = 64 - (uint32_t)__builtin_ctz(larger.room);
    larger.rows = allocate(larger.room * sizeof(*larger.rows));
    if (!larger.rows)
        return -ENOMEM;
    for (uint32_t i = 0; i < larger.room; i++)
        larger.rows[i].owner = NO_OWNER;
    for (uint32_t i = 0; i < h->room; i++)
        if (h->rows[i].owner != NO_OWNER)
            *find_host(&larger, h->rows[i].key) = h->rows[i];
    free(h->rows);
    *h = larger;
    return 0;
}

static int insert_host(struct hosts *h, struct key key, uint32_t slot, bool limit, uint32_t *previous) {
    struct host *row;
    int rc = make_host_room(h);

    if (rc)
        return rc;
    row = find_host(h, key);
    *previous = row->owner != NO_OWNER ? row->owner : JV_ROUTE_NONE;
    if (limit && *previous == JV_ROUTE_NONE)
        return -ENOSPC;
    h->used += row->owner == NO_OWNER;
    *row = (struct host){.key = key, .owner = slot};
    return 0;
}

/* Empties a row and moves later rows of its run back, so that no search ends too early (Knuth 6.4, algorithm
 * R). */
static void empty_row(struct hosts *h, uint32_t hole) {
    uint32_t mask = h->room - 1;

    for (uint32_t at = (hole + 1) & mask; h->rows[at].owner != NO_OWNER; at = (at + 1) & mask) {
        uint32_t home = home_of(h, h->rows[at].key);

        if (((at - home) & mask) >= ((at - hole) & mask)) {
            h->rows[hole] = h->rows[at];
            hole = at;
        }
    }
    h->rows[hole].owner = NO_OWNER;
    h->used--;
}

static int remove_host(struct hosts *h, struct key key, uint32_t slot) {
    struct host *row;

    if (!h->room)
        return -ENOENT;
    row = find_host(h, key);
    if (row->owner != slot)
        return -ENOENT;
    empty_row(h, (uint32_t)(row - h->rows));
    return 0;
}

static uint32_t drop_hosts(struct hosts *h, uint32_t slot) {
    uint32_t before = h->used;

    for (uint32_t at = 0; at < h->room;) {
        if (h->rows[at].owner == slot)
            empty_row(h, at); /* another row may be here now */
        else
            at++;
    }
    return before - h->used;
}

/* --- both
 * -------------------------------------------------------------------------------------------------------- */

int jv_routes_insert(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot, uint32_t *previous) {
    struct family *f = family_of(r, prefix);
    bool limit = r->count >= r->max;
    int rc;

    if (!f || slot > JV_ROUTE_SLOT_MAX)
        return -EINVAL;
    if (is_host(prefix))
        rc = insert_host(&f->hosts, key_of(prefix), slot, limit, previous);
    else
        rc = insert_prefix(&f->trie, key_of(prefix), prefix->len, slot, limit, previous);
    r->count += rc == 0 && *previous == JV_ROUTE_NONE;
    return rc;
}

int jv_routes_remove(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot) {
    struct family *f = family_of(r, prefix);
    int rc;

    if (!f || slot > JV_ROUTE_SLOT_MAX)
        return -EINVAL;
    if (is_host(prefix))
        rc = remove_host(&f->hosts, key_of(prefix), slot);
    else
        rc = remove_prefix(&f->trie, key_of(prefix), prefix->len, slot);
    r->count -= rc == 0;
    return rc;
}

/* --- walking
 * ----------------------------------------------------------------------------------------------------- */

/* Depth is at most one node per prefix length. */
#define DEPTH_MAX 130

static int visit_one(struct key key, unsigned len, uint32_t owner, uint8_t family, jv_route_visit visit,
                     void *ctx) {
    struct jv_prefix prefix = {.family = family, .len = (uint8_t)len};

    if (family == 4) {
        jv_put_be32(prefix.addr, (uint32_t)(key.hi >> 32));
    } else {
        jv_put_be64(prefix.addr, key.hi);
        jv_put_be64(prefix.addr + 8, key.lo);
    }
    return visit(ctx, &prefix, owner);
}

static int walk_trie(const struct trie *t, uint8_t family, jv_route_visit visit, void *ctx) {
    uint32_t stack[DEPTH_MAX];
    unsigned depth = 0;
    int rc = 0;

    if (t->root)
        stack[depth++] = t->root;
    while (depth > 0 && rc == 0) {
        const struct node *n = &t->nodes[stack[--depth]];

        if (n->owner != NO_OWNER)
            rc = visit_one(n->key, n->len, n->owner, family, visit, ctx);
        if (n->child[1])
            stack[depth++] = n->child[1];
        if (n->child[0])
            stack[depth++] = n->child[0];
    }
    return rc;
}

static int walk_hosts(const struct hosts *h, uint8_t family, jv_route_visit visit, void *ctx) {
    int rc = 0;

    for (uint32_t i = 0; i < h->room && rc == 0; i++)
        if (h->rows[i].owner != NO_OWNER)
            rc = visit_one(h->rows[i].key, family == 4 ? 32 : 128, h->rows[i].owner, family, visit, ctx);
    return rc;
}

int jv_routes_walk(const struct jv_routes *r, jv_route_visit visit, void *ctx) {
    int rc = walk_trie(&r->v4.trie, 4, visit, ctx);

    if (rc == 0)
        rc = walk_hosts(&r->v4.hosts, 4, visit, ctx);
    if (rc == 0)
        rc = walk_trie(&r->v6.trie, 6, visit, ctx);
    if (rc == 0)
        rc = walk_hosts(&r->v6.hosts, 6, visit, ctx);
    return rc;
}

/* Visits children before their parent, so that a fork is spliced after what hung under it. The stack holds
 * links; splicing rewrites a link but moves no node. */
static uint32_t drop_prefixes(struct trie *t, uint32_t slot) {
    struct {
        uint32_t *link;
        unsigned next;
    } stack[DEPTH_MAX] = {{&t->root, 0}};
    unsigned depth = t->root ? 1 : 0;
    uint32_t dropped = 0;

    while (depth > 0) {
        struct node *n = &t->nodes[*stack[depth - 1].link];

        if (stack[depth - 1].next < 2) {
            uint32_t *child = &n->child[stack[depth - 1].next++];

            if (*child) {
                stack[depth].link = child;
                stack[depth++].next = 0;
            }
            continue;
        }
        if (n->owner == slot) {
            n->owner = NO_OWNER;
            dropped++;
        }
        splice(t, stack[--depth].link);
    }
    return dropped;
}

uint32_t jv_routes_remove_all(struct jv_routes *r, uint32_t slot) {
    uint32_t dropped;

    if (slot > JV_ROUTE_SLOT_MAX)
        return 0;
    dropped = drop_prefixes(&r->v4.trie, slot) + drop_hosts(&r->v4.hosts, slot);
    dropped += drop_prefixes(&r->v6.trie, slot) + drop_hosts(&r->v6.hosts, slot);
    r->count -= dropped;
    return dropped;
}

/* --- lookups
 * ----------------------------------------------------------------------------------------------------- */

/* A fork is not compared: if the address left the path there, the next prefix below it will not cover it
 * either. */
static inline uint32_t lookup_prefix(const struct trie *t, struct key key) {
    const struct node *nodes = t->nodes;
    uint32_t found = JV_ROUTE_NONE;

    for (uint32_t at = t->root; at;) {
        const struct node *n = &nodes[at];

        if (n->owner != NO_OWNER) {
            if (!covers(n, key))
                break;
            found = n->owner;
        }
        at = n->child[bit_at(key, n->len)];
    }
    return found;
}

static inline uint32_t lookup(const struct family *f, struct key key) {
    if (f->hosts.used) {
        uint32_t owner = find_host(&f->hosts, key)->owner;

        if (owner != NO_OWNER)
            return owner;
    }
    return lookup_prefix(&f->trie, key);
}

uint32_t jv_route_lookup4(const struct jv_routes *r, const uint8_t addr[4]) {
    return lookup(&r->v4, key4(addr));
}

uint32_t jv_route_lookup6(const struct jv_routes *r, const uint8_t addr[16]) {
    return lookup(&r->v6, key6(addr));
}

uint32_t jv_routes_count(const struct jv_routes *r) {
    return r->count;
}

size_t jv_routes_bytes(const struct jv_routes *r) {
    size_t nodes = (size_t)r->v4.trie.room + r->v6.trie.room;
    size_t hosts = (size_t)r->v4.hosts.room + r->v6.hosts.room;

    return nodes * sizeof(struct node) + hosts * sizeof(struct host);
}
