/* SPDX-License-Identifier: Apache-2.0 */
/* An open hash table with linear probing, at most three quarters full. A gateway's prefixes are nearly all
 * host addresses; here one costs one cache miss, in a trie of 100,000 seventeen dependent loads. */
#include <errno.h>
#include <stdlib.h>

#include "route_internal.h"

#define FIRST_ROWS 16u

struct jv_host {
    struct jv_key key;
    uint32_t owner; /* JV_NO_OWNER = empty */
};

/* Multiplicative hashing by the upper bits (Knuth 6.4): consecutive addresses of a pool spread evenly.
 * Prefixes are configured, not chosen by peers, so no secret is needed. */
static inline uint32_t home_of(const struct jv_hosts *h, struct jv_key key) {
    uint64_t mixed = key.hi ^ (key.hi >> 32) ^ key.lo * UINT64_C(0xbf58476d1ce4e5b9);

    return (uint32_t)(mixed * UINT64_C(0x9e3779b97f4a7c15) >> h->shift);
}

/* The row that holds the key, or the empty one where it would go. The table is never full. */
static inline struct jv_host *find_host(const struct jv_hosts *h, struct jv_key key) {
    for (uint32_t at = home_of(h, key);; at = (at + 1) & (h->room - 1)) {
        struct jv_host *row = &h->rows[at];

        if (row->owner == JV_NO_OWNER || (row->key.hi == key.hi && row->key.lo == key.lo))
            return row;
    }
}

static int make_host_room(struct jv_hosts *h) {
    struct jv_hosts larger = {.room = h->room ? h->room * 2 : FIRST_ROWS, .used = h->used};

    if (h->used < h->room / 4 * 3)
        return 0;
    larger.shift = 64 - (uint32_t)__builtin_ctz(larger.room);
    larger.rows = jv_route_memory(larger.room * sizeof(*larger.rows));
    if (!larger.rows)
        return -ENOMEM;
    for (uint32_t i = 0; i < larger.room; i++)
        larger.rows[i].owner = JV_NO_OWNER;
    for (uint32_t i = 0; i < h->room; i++)
        if (h->rows[i].owner != JV_NO_OWNER)
            *find_host(&larger, h->rows[i].key) = h->rows[i];
    free(h->rows);
    *h = larger;
    return 0;
}

int jv_hosts_insert(struct jv_hosts *h, struct jv_key key, uint32_t owner, bool full, uint32_t *previous) {
    struct jv_host *row;
    int rc = make_host_room(h);

    if (rc)
        return rc;
    row = find_host(h, key);
    *previous = row->owner != JV_NO_OWNER ? row->owner : JV_ROUTE_NONE;
    if (full && *previous == JV_ROUTE_NONE)
        return -ENOSPC;
    h->used += row->owner == JV_NO_OWNER;
    *row = (struct jv_host){.key = key, .owner = owner};
    return 0;
}

/* Empties a row and moves later rows of its run back, so that no search ends too early (Knuth 6.4, R). */
static void empty_row(struct jv_hosts *h, uint32_t hole) {
    uint32_t mask = h->room - 1;

    for (uint32_t at = (hole + 1) & mask; h->rows[at].owner != JV_NO_OWNER; at = (at + 1) & mask) {
        uint32_t home = home_of(h, h->rows[at].key);

        if (((at - home) & mask) >= ((at - hole) & mask)) {
            h->rows[hole] = h->rows[at];
            hole = at;
        }
    }
    h->rows[hole].owner = JV_NO_OWNER;
    h->used--;
}

int jv_hosts_remove(struct jv_hosts *h, struct jv_key key, uint32_t owner) {
    struct jv_host *row;

    if (!h->room)
        return -ENOENT;
    row = find_host(h, key);
    if (row->owner != owner)
        return -ENOENT;
    empty_row(h, (uint32_t)(row - h->rows));
    return 0;
}

uint32_t jv_hosts_remove_all(struct jv_hosts *h, uint32_t owner) {
    uint32_t before = h->used;

    for (uint32_t at = 0; at < h->room;) {
        if (h->rows[at].owner == owner)
            empty_row(h, at); /* another row may be here now */
        else
            at++;
    }
    return before - h->used;
}

int jv_hosts_walk(const struct jv_hosts *h, unsigned len, jv_entry_visit visit, void *ctx) {
    int rc = 0;

    for (uint32_t i = 0; i < h->room && rc == 0; i++)
        if (h->rows[i].owner != JV_NO_OWNER)
            rc = visit(ctx, h->rows[i].key, len, h->rows[i].owner);
    return rc;
}

uint32_t jv_hosts_lookup(const struct jv_hosts *h, struct jv_key key) {
    uint32_t owner = h->used ? find_host(h, key)->owner : JV_NO_OWNER;

    return owner == JV_NO_OWNER ? JV_ROUTE_NONE : owner;
}

size_t jv_hosts_bytes(const struct jv_hosts *h) {
    return h->room * sizeof(struct jv_host);
}
