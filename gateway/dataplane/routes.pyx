# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""Longest-prefix match from inner addresses to session slots.

Rule: a prefix has one owner, the last one inserted; removing it in the name of another owner does nothing.
"""

from libc.errno cimport ENOENT
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

import ipaddress

from gateway.dataplane cimport c_route as c
from gateway.dataplane.c_check cimport check


cdef int fill(c.jv_prefix *prefix, packed, int length) except -1:
    """Write (packed address, prefix length) as C wants it. ValueError unless it is 4 or 16 bytes."""
    cdef const uint8_t[::1] view = packed
    if view.shape[0] != 4 and view.shape[0] != 16:
        raise ValueError("a packed address has 4 or 16 bytes")
    if not 0 <= length <= 8 * view.shape[0]:
        raise ValueError(f"no prefix of {view.shape[0]} bytes is {length} bits long")
    memset(prefix, 0, sizeof(c.jv_prefix))
    prefix.family = 4 if view.shape[0] == 4 else 6
    prefix.len = length
    memcpy(prefix.addr, &view[0], view.shape[0])
    return 0


cdef int parse(c.jv_prefix *prefix, network) except -1:
    """From "10.0.0.0/8" or (packed, length); bits behind the length are ignored."""
    if isinstance(network, str):
        network = ipaddress.ip_network(network, strict=False)
        return fill(prefix, network.network_address.packed, network.prefixlen)
    return fill(prefix, network[0], network[1])


cdef int collect(void *ctx, const c.jv_prefix *prefix, uint32_t slot) noexcept with gil:
    size = 4 if prefix.family == 4 else 16
    (<list>ctx).append((prefix.addr[:size], prefix.len, slot))
    return 0


cdef class RouteTable:
    """At most ``max_prefixes`` prefixes of both families."""

    cdef c.jv_routes *_r

    def __cinit__(self, uint32_t max_prefixes):
        self._r = c.jv_routes_new(max_prefixes)
        if self._r is NULL:
            raise MemoryError

    def __dealloc__(self):
        c.jv_routes_free(self._r)

    def insert(self, network, uint32_t slot):
        """Give a prefix to a slot; return the owner it had, or None. DataplaneError when the table is full."""
        cdef c.jv_prefix prefix
        cdef uint32_t previous = c.JV_ROUTE_NONE
        parse(&prefix, network)
        check(c.jv_routes_insert(self._r, &prefix, slot, &previous), f"allowed address {network}")
        return None if previous == <uint32_t>c.JV_ROUTE_NONE else previous

    def remove(self, network, uint32_t slot):
        """Return whether the slot owned the prefix until now."""
        cdef c.jv_prefix prefix
        cdef int rc
        parse(&prefix, network)
        rc = c.jv_routes_remove(self._r, &prefix, slot)
        if rc == -ENOENT:
            return False
        check(rc, f"allowed address {network}")
        return True

    def remove_all(self, uint32_t slot):
        """Return how many prefixes the slot had."""
        return c.jv_routes_remove_all(self._r, slot)

    def lookup(self, address):
        """The owner of the longest prefix that holds an address (str, or packed bytes), or None."""
        cdef c.jv_prefix at
        cdef uint32_t slot
        packed = ipaddress.ip_address(address).packed if isinstance(address, str) else address
        fill(&at, packed, 0)
        slot = c.jv_route_lookup4(self._r, at.addr) if at.family == 4 else c.jv_route_lookup6(self._r, at.addr)
        return None if slot == <uint32_t>c.JV_ROUTE_NONE else slot

    def __len__(self):
        return c.jv_routes_count(self._r)

    @property
    def size_bytes(self):
        return c.jv_routes_bytes(self._r)

    def items(self):
        """Every (packed address, prefix length, slot), IPv4 first."""
        found = []
        c.jv_routes_walk(self._r, collect, <void *>found)
        return found

    def lookup_many(self, const uint8_t[:, ::1] addresses not None):
        """For benchmarks: look up every row (4 or 16 bytes); return how many have an owner."""
        cdef Py_ssize_t i, width = addresses.shape[1]
        cdef uint32_t slot = 0
        cdef unsigned found = 0
        if width != 4 and width != 16:
            raise ValueError("a packed address has 4 or 16 bytes")
        with nogil:
            for i in range(addresses.shape[0]):
                if width == 4:
                    slot = c.jv_route_lookup4(self._r, &addresses[i, 0])
                else:
                    slot = c.jv_route_lookup6(self._r, &addresses[i, 0])
                found += slot != <uint32_t>c.JV_ROUTE_NONE
        return found
