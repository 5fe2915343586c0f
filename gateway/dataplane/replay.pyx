# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""The anti-replay window (RFC 6479) of one keypair.

Rule: commit a counter only after its packet authenticated.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from gateway.dataplane cimport c_replay as c
from gateway.dataplane.c_check cimport check

OK = c.JV_REPLAY_OK
SEEN = c.JV_REPLAY_SEEN
OLD = c.JV_REPLAY_OLD


cdef class ReplayWindow:
    """Remembers which of the last ``bits - 64`` counters were committed. bits: a power of two, 128 to 2**20."""

    cdef c.jv_replay _w

    def __cinit__(self, uint32_t bits=c.JV_REPLAY_BITS_DEFAULT):
        cdef uint64_t *words = self._memory(bits)
        cdef int rc = c.jv_replay_init(&self._w, words, bits)
        if rc != 0:
            free(words)
        check(rc, f"replay window of {bits} bits")

    def __dealloc__(self):
        free(self._w.words)

    cdef uint64_t *_memory(self, uint32_t bits) except NULL:
        cdef uint64_t *words = <uint64_t *>malloc(c.jv_replay_bytes(bits) + 8)
        if words is NULL:
            raise MemoryError
        return words

    @property
    def highest(self):
        """The greatest committed counter; 0 at first."""
        return c.jv_replay_highest(&self._w)

    @property
    def size(self):
        """Counters below the highest that are still told apart."""
        return c.jv_replay_size(&self._w)

    def peek(self, uint64_t counter):
        """OK, SEEN or OLD; changes nothing."""
        return c.jv_replay_peek(&self._w, counter)

    def commit(self, uint64_t counter):
        """The same verdict; a counter that is OK is from now on SEEN."""
        return c.jv_replay_commit(&self._w, counter)

    def grow(self, uint32_t bits):
        """Move into a larger window without making any refused counter acceptable."""
        cdef uint64_t *words = self._memory(bits)
        cdef uint64_t *before = self._w.words
        cdef int rc = c.jv_replay_grow(&self._w, words, bits)
        free(words if rc != 0 else before)
        check(rc, f"replay window of {bits} bits")

    def commit_many(self, const uint64_t[::1] counters not None):
        """Commit in order; return how many were OK."""
        cdef Py_ssize_t i
        cdef unsigned good = 0
        with nogil:
            for i in range(counters.shape[0]):
                good += c.jv_replay_commit(&self._w, counters[i]) == c.JV_REPLAY_OK
        return good
