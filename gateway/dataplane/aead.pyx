# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""The cipher suites of transport messages, as the C data plane uses them.

Rule: the caller owns every buffer and keeps each (key, counter) pair to one message.
"""

from libc.stdint cimport uint8_t, uint64_t

from gateway.dataplane cimport c_aead as c
from gateway.dataplane.c_check cimport check

from gateway.errors import AuthError

CHACHA20POLY1305 = c.JV_SUITE_CHACHA20POLY1305
AES256GCM = c.JV_SUITE_AES256GCM
AEGIS128L = c.JV_SUITE_AEGIS128L

check(c.jv_aead_init(), "libsodium does not start")


def suites():
    """Number -> name of every suite offered by this CPU and this libsodium (protocol.md §3)."""
    return {n: c.jv_aead_name(n).decode() for n in range(1, c.JV_SUITE_END) if c.jv_aead_available(n)}


def sodium_path():
    """The libsodium file that the C side calls, as the loader names it."""
    return c.jv_sodium_path().decode()


def sodium_version():
    return c.jv_sodium_version().decode()


cdef const uint8_t *start(const uint8_t[::1] view) noexcept nogil:
    """First byte of a buffer; any valid address for an empty one."""
    return &view[0] if view.shape[0] else <const uint8_t *>b""


cdef class AeadKey:
    """One key of one direction. Wiped when the object goes; never printed."""

    cdef c.jv_aead_key _key
    cdef readonly size_t tag_bytes

    def __cinit__(self, unsigned suite, bytes key not None):
        check(c.jv_aead_key_init(&self._key, suite, <const uint8_t *><const char *>key, len(key)), f"suite {suite}")
        self.tag_bytes = c.jv_aead_tag_bytes(suite)

    def __dealloc__(self):
        c.jv_aead_key_wipe(&self._key)

    @property
    def suite(self):
        return self._key.suite

    def seal(self, uint64_t counter, const uint8_t[::1] src not None, uint8_t[::1] dst not None, bytes ad=b""):
        """Seal ``src`` into ``dst``, which may be the same memory; return the bytes written (the tag included).

        ValueError if ``dst`` is too small.
        """
        cdef size_t size = src.shape[0], ad_len = len(ad)
        cdef const uint8_t *ad_start = <const uint8_t *><const char *>ad
        if <size_t>dst.shape[0] < size + self.tag_bytes:
            raise ValueError("dst has no room for the tag")
        with nogil:
            c.jv_aead_seal(&self._key, counter, ad_start, ad_len, start(src), size, &dst[0])
        return size + self.tag_bytes

    def open(self, uint64_t counter, const uint8_t[::1] src not None, uint8_t[::1] dst not None, bytes ad=b""):
        """Open ``src`` into ``dst``, which may be the same memory; return the bytes of plaintext.

        AuthError if the tag does not verify; ValueError if ``dst`` is too small.
        """
        cdef size_t size = src.shape[0], ad_len = len(ad)
        cdef const uint8_t *ad_start = <const uint8_t *><const char *>ad
        cdef uint8_t nothing[1]
        cdef uint8_t *to = &dst[0] if dst.shape[0] else nothing
        cdef int rc
        if size < self.tag_bytes:
            raise AuthError("message is shorter than its tag")
        if <size_t>dst.shape[0] < size - self.tag_bytes:
            raise ValueError("dst has no room for the plaintext")
        with nogil:
            rc = c.jv_aead_open(&self._key, counter, ad_start, ad_len, &src[0], size, to)
        if rc != 0:
            raise AuthError("tag does not verify")
        return size - self.tag_bytes

    def seal_many(self, uint64_t first, unsigned n, const uint8_t[::1] src not None, uint8_t[::1] dst not None):
        """For benchmarks: seal ``src`` under ``n`` counters, with 16 bytes of associated data as type 5 has."""
        cdef uint8_t ad[16]
        cdef unsigned i
        if dst.shape[0] < src.shape[0] + <Py_ssize_t>self.tag_bytes:
            raise ValueError("dst has no room for the tag")
        for i in range(16):
            ad[i] = 0
        with nogil:
            for i in range(n):
                c.jv_aead_seal(&self._key, first + i, ad, 16, start(src), src.shape[0], &dst[0])

    def open_many(self, uint64_t counter, unsigned n, const uint8_t[::1] src not None, uint8_t[::1] dst not None):
        """For benchmarks: open the same message ``n`` times; return how often its tag verified."""
        cdef uint8_t ad[16]
        cdef unsigned i, _turn, good = 0
        if src.shape[0] < <Py_ssize_t>self.tag_bytes or dst.shape[0] < src.shape[0]:
            raise ValueError("src is shorter than its tag, or dst shorter than src")
        for i in range(16):
            ad[i] = 0
        with nogil:
            for _turn in range(n):
                good += c.jv_aead_open(&self._key, counter, ad, 16, &src[0], src.shape[0], &dst[0]) == 0
        return good
