/* SPDX-License-Identifier: Apache-2.0 */
/* The two structures behind a route table: a trie for prefixes, a hash table for whole addresses (/32, /128).
 * Owners are checked by route.c; neither structure knows of address families or of the table's limit. */
#ifndef JV_ROUTE_INTERNAL_H
#define JV_ROUTE_INTERNAL_H

#include "jv/route.h"

#define JV_NO_OWNER 0xffffffu

/* Left-aligned: bit 0 of an address is the highest bit of hi. An IPv4 address fills the upper half of hi. */
struct jv_key {
    uint64_t hi, lo;
};

/* Called for each entry; stops at the first non-zero result and returns it. */
typedef int (*jv_entry_visit)(void *ctx, struct jv_key key, unsigned len, uint32_t owner);

/* Memory for a table that is read at random; released with free(). */
void *jv_route_memory(size_t bytes);

/* --- trie: prefixes of any length below the family's longest --- */

struct jv_trie_node;

struct jv_trie {
    struct jv_trie_node *nodes;
    uint32_t root;
    uint32_t used;  /* nodes ever taken, node 0 included */
    uint32_t room;  /* nodes allocated */
    uint32_t freed; /* list of returned nodes */
};

/* `full`: only an existing prefix may change its owner, a new one is -ENOSPC. *previous as in
 * jv_routes_insert(). */
int jv_trie_insert(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t owner, bool full,
                   uint32_t *previous);
int jv_trie_remove(struct jv_trie *t, struct jv_key key, unsigned len, uint32_t owner);
uint32_t jv_trie_remove_all(struct jv_trie *t, uint32_t owner);
uint32_t jv_trie_lookup(const struct jv_trie *t, struct jv_key key);
int jv_trie_walk(const struct jv_trie *t, jv_entry_visit visit, void *ctx);
size_t jv_trie_bytes(const struct jv_trie *t);

/* --- hosts: whole addresses --- */

struct jv_host;

struct jv_hosts {
    struct jv_host *rows;
    uint32_t room;  /* a power of two, or 0 */
    uint32_t shift; /* 64 - log2(room) */
    uint32_t used;
};

int jv_hosts_insert(struct jv_hosts *h, struct jv_key key, uint32_t owner, bool full, uint32_t *previous);
int jv_hosts_remove(struct jv_hosts *h, struct jv_key key, uint32_t owner);
uint32_t jv_hosts_remove_all(struct jv_hosts *h, uint32_t owner);
uint32_t jv_hosts_lookup(const struct jv_hosts *h, struct jv_key key);
/* len is handed on to visit. */
int jv_hosts_walk(const struct jv_hosts *h, unsigned len, jv_entry_visit visit, void *ctx);
size_t jv_hosts_bytes(const struct jv_hosts *h);

#endif
