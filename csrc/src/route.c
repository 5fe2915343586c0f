/* SPDX-License-Identifier: Apache-2.0 */
/* One route table: for each address family a hash table of host addresses, asked first, and a trie of all
 * shorter prefixes. No prefix is longer than a host's, so a hit in the hash table is final. */
#include "jv/route.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "route_internal.h"

#define PREFIXES_MAX (UINT32_C(1) << 28) /* positions in the tables stay well inside 32 bits */

struct family {
    struct jv_trie trie;
    struct jv_hosts hosts;
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
void *jv_route_memory(size_t bytes) {
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

static struct jv_key key4(const uint8_t *addr) {
    return (struct jv_key){.hi = (uint64_t)jv_get_be32(addr) << 32};
}

static struct jv_key key6(const uint8_t *addr) {
    return (struct jv_key){.hi = jv_get_be64(addr), .lo = jv_get_be64(addr + 8)};
}

static struct jv_key key_of(const struct jv_prefix *p) {
    return p->family == 4 ? key4(p->addr) : key6(p->addr);
}

static struct family *family_of(struct jv_routes *r, const struct jv_prefix *p) {
    if (p->family == 4 && p->len <= 32)
        return &r->v4;
    return p->family == 6 && p->len <= 128 ? &r->v6 : NULL;
}

static bool is_host(const struct jv_prefix *p) {
    return p->len == (p->family == 4 ? 32 : 128);
}

int jv_routes_insert(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot, uint32_t *previous) {
    struct family *f = family_of(r, prefix);
    bool full = r->count >= r->max;
    int rc;

    if (!f || slot > JV_ROUTE_SLOT_MAX)
        return -EINVAL;
    if (is_host(prefix))
        rc = jv_hosts_insert(&f->hosts, key_of(prefix), slot, full, previous);
    else
        rc = jv_trie_insert(&f->trie, key_of(prefix), prefix->len, slot, full, previous);
    r->count += rc == 0 && *previous == JV_ROUTE_NONE;
    return rc;
}

int jv_routes_remove(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot) {
    struct family *f = family_of(r, prefix);
    int rc;

    if (!f || slot > JV_ROUTE_SLOT_MAX)
        return -EINVAL;
    if (is_host(prefix))
        rc = jv_hosts_remove(&f->hosts, key_of(prefix), slot);
    else
        rc = jv_trie_remove(&f->trie, key_of(prefix), prefix->len, slot);
    r->count -= rc == 0;
    return rc;
}

uint32_t jv_routes_remove_all(struct jv_routes *r, uint32_t slot) {
    uint32_t dropped;

    if (slot > JV_ROUTE_SLOT_MAX)
        return 0;
    dropped = jv_trie_remove_all(&r->v4.trie, slot) + jv_hosts_remove_all(&r->v4.hosts, slot);
    dropped += jv_trie_remove_all(&r->v6.trie, slot) + jv_hosts_remove_all(&r->v6.hosts, slot);
    r->count -= dropped;
    return dropped;
}

static inline uint32_t lookup(const struct family *f, struct jv_key key) {
    uint32_t owner = jv_hosts_lookup(&f->hosts, key);

    return owner != JV_ROUTE_NONE ? owner : jv_trie_lookup(&f->trie, key);
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
    return jv_trie_bytes(&r->v4.trie) + jv_hosts_bytes(&r->v4.hosts) + jv_trie_bytes(&r->v6.trie) +
           jv_hosts_bytes(&r->v6.hosts);
}

/* --- walking --- */

struct walk {
    jv_route_visit visit;
    void *ctx;
};

static int visit4(void *ctx, struct jv_key key, unsigned len, uint32_t owner) {
    struct jv_prefix prefix = {.family = 4, .len = (uint8_t)len};
    const struct walk *walk = ctx;

    jv_put_be32(prefix.addr, (uint32_t)(key.hi >> 32));
    return walk->visit(walk->ctx, &prefix, owner);
}

static int visit6(void *ctx, struct jv_key key, unsigned len, uint32_t owner) {
    struct jv_prefix prefix = {.family = 6, .len = (uint8_t)len};
    const struct walk *walk = ctx;

    jv_put_be64(prefix.addr, key.hi);
    jv_put_be64(prefix.addr + 8, key.lo);
    return walk->visit(walk->ctx, &prefix, owner);
}

int jv_routes_walk(const struct jv_routes *r, jv_route_visit visit, void *ctx) {
    struct walk walk = {visit, ctx};
    int rc = jv_trie_walk(&r->v4.trie, visit4, &walk);

    if (rc == 0)
        rc = jv_hosts_walk(&r->v4.hosts, 32, visit4, &walk);
    if (rc == 0)
        rc = jv_trie_walk(&r->v6.trie, visit6, &walk);
    if (rc == 0)
        rc = jv_hosts_walk(&r->v6.hosts, 128, visit6, &walk);
    return rc;
}
