# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""UDP in bursts for tools: benchmarks, load generators, relays. The gateway's own packets go through the engine.

Rule: rows and lengths are the caller's arrays; one call is one burst, bounded, and never waits.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

import ipaddress
import socket

from gateway.dataplane cimport c_burst as c
from gateway.dataplane.c_check cimport check

UDP_GSO = c.JV_UDP_GSO
UDP_GRO = c.JV_UDP_GRO

cdef enum:
    ROWS_MAX = 64


cdef class BurstSocket:
    """Bursts through a bound, non-blocking UDP socket that the caller keeps open.

    wanted: UDP_GSO | UDP_GRO, what to use of it if the kernel has it; datagram_bytes: the largest datagram expected.
    """

    cdef int _fd
    cdef readonly unsigned features
    cdef c.jv_burst *_burst
    cdef c.jv_sender *_sender
    cdef c.jv_endpoint _to
    cdef c.jv_counters _ctr
    cdef c.jv_train _trains[ROWS_MAX]

    def __cinit__(self, int fd, *, unsigned wanted=c.JV_UDP_GSO | c.JV_UDP_GRO, uint32_t datagram_bytes=2048):
        if not 1 <= datagram_bytes <= 65535:
            raise ValueError("datagram_bytes is 1 to 65535")
        self._fd = fd
        self.features = check(c.jv_udp_prepare(fd, wanted), "prepare UDP socket")
        self._burst = c.jv_burst_new(self.features, datagram_bytes)
        self._sender = c.jv_sender_new(self.features)
        if self._burst is NULL or self._sender is NULL:
            raise MemoryError

    def __dealloc__(self):
        c.jv_burst_free(self._burst)
        c.jv_sender_free(self._sender)

    def send_to(self, str host not None, uint16_t port):
        """Set where ``send`` sends: an IPv4 or IPv6 address as text, scope (``%1``) included."""
        address = ipaddress.ip_address(host)
        cdef bytes packed = address.packed
        scope = int(getattr(address, "scope_id", None) or 0)
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        check(c.jv_endpoint_set(&self._to, family, packed, port, scope), f"send to {host}")

    def send(self, const uint8_t[:, ::1] rows not None, const uint32_t[::1] lengths not None, uint16_t segment_bytes=0):
        """Send ``rows[i][:lengths[i]]``, at most 64 rows; return how many datagrams the kernel took.

        segment_bytes: each row is a train of segments of this size, the last of which may be shorter; 0 = one datagram.
        """
        cdef Py_ssize_t i, n = lengths.shape[0]
        cdef uint32_t sent
        if n > ROWS_MAX or n > rows.shape[0]:
            raise ValueError("more lengths than rows, or more than 64")
        for i in range(n):
            if lengths[i] > <size_t>rows.shape[1]:
                raise ValueError(f"row {i} is shorter than its length")
            self._trains[i].data = &rows[i, 0]
            self._trains[i].len = lengths[i]
            self._trains[i].segment_bytes = segment_bytes
            self._trains[i].flags = 0
            self._trains[i].to = &self._to
        with nogil:
            sent = c.jv_sender_send(self._sender, self._fd, self._trains, n, &self._ctr)
        return sent

    def recv(self, uint8_t[:, ::1] rows not None, uint32_t[::1] lengths not None):
        """Copy one received burst into rows, one datagram each; return how many, 0 when none were waiting.

        Datagrams that do not fit (rows too few or too short) are left out; 512 rows hold any burst of equal segments.
        """
        cdef int got
        with nogil:
            got = c.jv_burst_recv(self._burst, self._fd, 0, &self._ctr)
        return self._copy_out(check(got, "receive"), rows, lengths)

    def recv_count(self):
        """Receive one burst and drop it; return how many datagrams it held."""
        cdef int got, i
        cdef unsigned datagrams = 0
        with nogil:
            got = c.jv_burst_recv(self._burst, self._fd, 0, &self._ctr)
        for i in range(check(got, "receive")):
            datagrams += c.jv_burst_msgs(self._burst)[i].segments
        return datagrams

    def counters(self):
        """Name -> value of every counter that is not zero."""
        return {c.jv_counter_name(i).decode(): self._ctr.n[i] for i in range(c.JV_COUNTER_COUNT) if self._ctr.n[i]}

    cdef Py_ssize_t _copy_out(self, int got, uint8_t[:, ::1] rows, uint32_t[::1] lengths) except -1:
        cdef Py_ssize_t row = 0, room = min(rows.shape[0], lengths.shape[0])
        cdef c.jv_msg *msg
        cdef uint32_t at, size
        cdef int i
        for i in range(got):
            msg = &c.jv_burst_msgs(self._burst)[i]
            at = 0
            while at < msg.len and row < room:
                size = min(msg.len - at, <uint32_t>msg.segment_bytes)
                if size <= <size_t>rows.shape[1]:
                    memcpy(&rows[row, 0], msg.data + at, size)
                    lengths[row] = size
                    row += 1
                at += size
        return row
