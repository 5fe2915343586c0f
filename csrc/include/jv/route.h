/* SPDX-License-Identifier: Apache-2.0 */
/* Longest-prefix match over allowed addresses: which session an inner address belongs to (crypto-key routing,
 * WireGuard whitepaper §2). A prefix has one owner; the last insert wins, as in WireGuard.
 * Lookups read only; changes may allocate, so they stay off the packet path and apart from any lookup. */
#ifndef JV_ROUTE_H
#define JV_ROUTE_H

#include "jv/common.h"

#define JV_ROUTE_NONE UINT32_MAX
/* Owners fit in 24 bits beside the prefix length; session slots have 20. */
#define JV_ROUTE_SLOT_MAX 0xfffffeu

struct jv_prefix {
    uint8_t family;   /* 4 or 6 */
    uint8_t len;      /* bits, 0 to 32 or 128 */
    uint8_t addr[16]; /* network order; an IPv4 address is the first four */
};

struct jv_routes;

/* NULL when memory is short. Nothing is allocated for prefixes that are not there. */
JV_API struct jv_routes *jv_routes_new(uint32_t max_prefixes) JV_WARN_UNUSED;
JV_API void jv_routes_free(struct jv_routes *r);

/* Gives the prefix to slot; bits behind the length are ignored. *previous: the owner until now, or
 * JV_ROUTE_NONE. 0, -EINVAL (family, length or slot), -ENOSPC (max_prefixes reached), -ENOMEM. On error
 * nothing changed. */
JV_API int jv_routes_insert(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot,
                            uint32_t *previous) JV_NONNULL JV_WARN_UNUSED;

/* Only if slot still owns it, so a prefix that moved to another session is not taken from that one.
 * 0, -ENOENT, -EINVAL. */
JV_API int jv_routes_remove(struct jv_routes *r, const struct jv_prefix *prefix, uint32_t slot) JV_NONNULL;

/* All prefixes of one owner, by a walk over the whole table; returns how many. Who knows the prefixes removes
 * them one by one. */
JV_API uint32_t jv_routes_remove_all(struct jv_routes *r, uint32_t slot) JV_NONNULL;

/* The owner of the longest prefix that holds the address, or JV_ROUTE_NONE. */
JV_API uint32_t jv_route_lookup4(const struct jv_routes *r, const uint8_t addr[4]) JV_NONNULL JV_PURE;
JV_API uint32_t jv_route_lookup6(const struct jv_routes *r, const uint8_t addr[16]) JV_NONNULL JV_PURE;

JV_API uint32_t jv_routes_count(const struct jv_routes *r) JV_NONNULL;
/* Memory held for prefixes, in bytes. */
JV_API size_t jv_routes_bytes(const struct jv_routes *r) JV_NONNULL;

/* Calls visit for each prefix, IPv4 first, else in no promised order; stops at its first non-zero result and
 * returns that, else 0. visit must not change the table. */
typedef int (*jv_route_visit)(void *ctx, const struct jv_prefix *prefix, uint32_t slot);
JV_API int jv_routes_walk(const struct jv_routes *r, jv_route_visit visit, void *ctx)
    __attribute__((nonnull(1, 2)));

#endif
