# SPDX-License-Identifier: Apache-2.0
"""jv/route.h"""

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "jv/route.h" nogil:
    enum:
        JV_ROUTE_NONE

    struct jv_prefix:
        uint8_t family
        uint8_t len
        uint8_t addr[16]

    struct jv_routes:
        pass

    ctypedef int (*jv_route_visit)(void *ctx, const jv_prefix *prefix, uint32_t slot) noexcept with gil

    jv_routes *jv_routes_new(uint32_t max_prefixes)
    void jv_routes_free(jv_routes *r)
    int jv_routes_insert(jv_routes *r, const jv_prefix *prefix, uint32_t slot, uint32_t *previous)
    int jv_routes_remove(jv_routes *r, const jv_prefix *prefix, uint32_t slot)
    uint32_t jv_routes_remove_all(jv_routes *r, uint32_t slot)
    uint32_t jv_route_lookup4(const jv_routes *r, const uint8_t *addr)
    uint32_t jv_route_lookup6(const jv_routes *r, const uint8_t *addr)
    uint32_t jv_routes_count(const jv_routes *r)
    size_t jv_routes_bytes(const jv_routes *r)
    int jv_routes_walk(const jv_routes *r, jv_route_visit visit, void *ctx)
