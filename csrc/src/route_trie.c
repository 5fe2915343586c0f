/* SPDX-License-Identifier: Apache-2.0 */
/* A path-compressed binary trie. Nodes are 32 bytes, two to a cache line, in one array and named by their
 * position in it, so that growing moves them all at once and a link costs four bytes. Node 0 is no node.
 * Invariant: a node without an owner has two children; hence n prefixes need less than 2n nodes. */
#include <errno.h>
#include <stdlib.h>

#include "route_internal.h"

#define FIRST_NODES 16u

struct jv_trie_node {
    struct jv_key key; /* bits behind len are zero */
    uint32_t child[2];
    uint32_t owner : 24;
    uint32_t len : 8;
};

_Static_assert(sizeof(struct jv_trie_node) == 32, "two nodes to a cache line");

static inline unsigned bit_at(struct jv_key key, unsigned position) {
    return (unsigned)(position < 64 ? key.hi >> (63 - position) : key.lo >> (127 - position)) & 1;
}

static inline uint64_t high_bits(unsigned n) {
    return n == 0 ? 0 : UINT64_MAX << (64 - n);
}

static struct jv_key masked(struct jv_key key, unsigned len) {
    key.hi &= high_bits(len < 64 ? len : 64);
    key.lo &= high_bits(len < 64 ? 0 : len - 64);
    return key;
}

/* Leading bits in which a and b agree, 128 when equal. */
static unsigned common_bits(struct jv_key a, struct jv_key b) {
    if (a.hi != b.hi)
        return (unsigned)__builtin_clzll(a.hi ^ b.hi);
    return a.lo != b.lo ? 64 + (unsigned)__builtin_clzll(a.lo ^ b.lo) : 128;
}

static inline bool covers(const struct jv_trie_node *n, struct jv_key key) {
    uint64_t differ_hi = n->key.hi ^ key.hi;

    if (n->len <= 64)
        return (differ_hi & high_bits(n->len)) == 0;
    return differ_hi == 0 && ((n->key.lo ^ key.lo) & high_bits(n->len - 64u)) == 0;
}

/* An insert takes at most two nodes: making room first means that it cannot fail half way. */
static int make_room(struct jv_trie *t) {
    uint32_t room = t->room ? t->room * 2 : FIRST_NODES;
    struct jv_trie_node *nodes;

    if (t->room && t->room - t->used >= 2)
        return 0;
    nodes = jv_route_memory((size_t)room * sizeof(*nodes));
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

static uint32_t take_node(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t owner) {
    uint32_t at = t->freed;

    if (at)
        t->freed = t->nodes[at].child[0];
    else
        at = t->used++;
    t->nodes[at] = (struct jv_trie_node){.key = masked(key, len), .owner = owner, .len = len};
    return at;
}

static void return_node(struct jv_trie *t, uint32_t at) {
    t->nodes[at] = (struct jv_trie_node){.child = {t->freed, 0}, .owner = JV_NO_OWNER};
    t->freed = at;
}

/* The link under which a node of this key and length hangs or would hang: the first whose node is not a
 * shorter prefix of it. *parent: the link above, or NULL. */
static uint32_t *find_link(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t **parent) {
    uint32_t *link = &t->root;

    *parent = NULL;
    while (*link) {
        struct jv_trie_node *n = &t->nodes[*link];

        if (n->len >= len || !covers(n, key))
            break;
        *parent = link;
        link = &n->child[bit_at(key, n->len)];
    }
    return link;
}

/* Hangs a new prefix at link, above or beside what is there. */
static void hang(struct jv_trie *t, uint32_t *link, struct jv_key key, unsigned len, uint32_t owner) {
    uint32_t there = *link, fresh = take_node(t, key, len, owner);
    struct jv_trie_node *old = &t->nodes[there];
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
    fork = take_node(t, key, shared, JV_NO_OWNER);
    t->nodes[fork].child[bit_at(key, shared)] = fresh;
    t->nodes[fork].child[bit_at(old->key, shared)] = there;
    *link = fork;
}

int jv_trie_insert(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t owner, bool full,
                   uint32_t *previous) {
    uint32_t *link, *parent;
    struct jv_trie_node *there;
    bool exact;
    int rc = make_room(t);

    if (rc)
        return rc;
    link = find_link(t, key, len, &parent);
    there = &t->nodes[*link];
    exact = *link && there->len == len && covers(there, key);
    *previous = exact && there->owner != JV_NO_OWNER ? there->owner : JV_ROUTE_NONE;
    if (full && *previous == JV_ROUTE_NONE)
        return -ENOSPC;
    if (exact)
        there->owner = owner;
    else
        hang(t, link, key, len, owner);
    return 0;
}

/* Takes out a node that lost its owner if the invariant asks for it; true if it went. */
static bool splice(struct jv_trie *t, uint32_t *link) {
    uint32_t at = *link;
    struct jv_trie_node *n = &t->nodes[at];

    if (n->owner != JV_NO_OWNER || (n->child[0] && n->child[1]))
        return false;
    *link = n->child[0] ? n->child[0] : n->child[1];
    return_node(t, at);
    return true;
}

int jv_trie_remove(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t owner) {
    uint32_t *parent, *link = find_link(t, key, len, &parent);
    struct jv_trie_node *n;

    if (!*link)
        return -ENOENT;
    n = &t->nodes[*link];
    if (n->len != len || !covers(n, key) || n->owner != owner)
        return -ENOENT;
    n->owner = JV_NO_OWNER;
    if (splice(t, link) && parent)
        splice(t, parent); /* a fork that lost one of its two */
    return 0;
}

/* Depth is at most one node per prefix length. */
#define DEPTH_MAX 130

int jv_trie_walk(const struct jv_trie *t, jv_entry_visit visit, void *ctx) {
    uint32_t stack[DEPTH_MAX];
    unsigned depth = 0;
    int rc = 0;

    if (t->root)
        stack[depth++] = t->root;
    while (depth > 0 && rc == 0) {
        const struct jv_trie_node *n = &t->nodes[stack[--depth]];

        if (n->owner != JV_NO_OWNER)
            rc = visit(ctx, n->key, n->len, n->owner);
        if (n->child[1])
            stack[depth++] = n->child[1];
        if (n->child[0])
            stack[depth++] = n->child[0];
    }
    return rc;
}

/* Visits children before their parent, so that a fork is spliced after what hung under it. The stack holds
 * links; splicing rewrites a link but moves no node. */
uint32_t jv_trie_remove_all(struct jv_trie *t, uint32_t owner) {
    struct {
        uint32_t *link;
        unsigned next;
    } stack[DEPTH_MAX] = {{&t->root, 0}};
    unsigned depth = t->root ? 1 : 0;
    uint32_t dropped = 0;

    while (depth > 0) {
        struct jv_trie_node *n = &t->nodes[*stack[depth - 1].link];

        if (stack[depth - 1].next < 2) {
            uint32_t *child = &n->child[stack[depth - 1].next++];

            if (*child) {
                stack[depth].link = child;
                stack[depth++].next = 0;
            }
            continue;
        }
        if (n->owner == owner) {
            n->owner = JV_NO_OWNER;
            dropped++;
        }
        splice(t, stack[--depth].link);
    }
    return dropped;
}

/* A fork is not compared: if the address left the path there, the next prefix below it will not cover it
 * either. */
uint32_t jv_trie_lookup(const struct jv_trie *t, struct jv_key key) {
    const struct jv_trie_node *nodes = t->nodes;
    uint32_t found = JV_ROUTE_NONE;

    for (uint32_t at = t->root; at;) {
        const struct jv_trie_node *n = &nodes[at];

        if (n->owner != JV_NO_OWNER) {
            if (!covers(n, key))
                break;
            found = n->owner;
        }
        at = n->child[bit_at(key, n->len)];
    }
    return found;
}

size_t jv_trie_bytes(const struct jv_trie *t) {
    return t->room * sizeof(struct jv_trie_node);
}
