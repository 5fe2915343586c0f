# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""The door to the C data plane: one class per C object, no policy.

Python sets up tables, calls the pumps when a descriptor is ready, and reads events; it never holds a packet.
Every C error becomes a DataplaneError in one place.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import ipaddress
import os
import socket

from gateway.errors import DataplaneError, NotFound

from gateway.dataplane cimport c_engine as c

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr_t_ "in_addr":
        pass
    cdef struct sockaddr_in:
        unsigned short sin_port
        in_addr_t_ sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_port
        uint32_t sin6_scope_id
        uint8_t sin6_addr[16]

cdef extern from "jv/endpoint.h" nogil:
    """
    static inline int jv_family(const struct jv_endpoint *e) { return e->remote.family; }
    static inline uint16_t jv_port(const struct jv_endpoint *e) {
        return ntohs(e->remote.family == AF_INET6 ? e->remote.v6.sin6_port : e->remote.v4.sin_port);
    }
    static inline uint32_t jv_scope(const struct jv_endpoint *e) {
        return e->remote.family == AF_INET6 ? e->remote.v6.sin6_scope_id : 0;
    }
    static inline const uint8_t *jv_ip_bytes(const struct jv_endpoint *e) {
        return e->remote.family == AF_INET6 ? e->remote.v6.sin6_addr.s6_addr
                                            : (const uint8_t *)&e->remote.v4.sin_addr.s_addr;
    }
    """
    int jv_family(const c.jv_endpoint *e)
    uint16_t jv_port(const c.jv_endpoint *e)
    uint32_t jv_scope(const c.jv_endpoint *e)
    const uint8_t *jv_ip_bytes(const c.jv_endpoint *e)

EVENT_HANDSHAKE = c.JV_EVENT_HANDSHAKE
EVENT_WANTED = c.JV_EVENT_WANTED
EVENT_NOTICE = c.JV_EVENT_NOTICE
EVENT_CONFIRMED = c.JV_EVENT_CONFIRMED
EVENT_ERASED = c.JV_EVENT_ERASED
WANTED_NO_KEY = c.JV_WANTED_NO_KEY
WANTED_REKEY = c.JV_WANTED_REKEY
WANTED_SILENT = c.JV_WANTED_SILENT
NO_DEADLINE = 0xFFFFFFFFFFFFFFFF

cdef int AF_INET = socket.AF_INET
cdef int AF_INET6 = socket.AF_INET6


cdef int check(int result, str what) except -1:
    """A negative errno of C becomes an exception that says what was attempted."""
    if result >= 0:
        return result
    if result == -2:
        raise NotFound(f"{what}: no such session or socket")
    raise DataplaneError(f"{what}: {os.strerror(-result)}")


cdef class Endpoint:
    """A remote address and port, and by which of our sockets and addresses it is reached. Immutable."""

    cdef c.jv_endpoint raw

    @staticmethod
    def of(str host, int port, int socket_id):
        """From a numeric address; `socket_id` as `Engine.socket_for` gave it. ValueError for a name."""
        cdef Endpoint e = Endpoint.__new__(Endpoint)
        address, _, scope = host.partition("%")
        packed = ipaddress.ip_address(address).packed
        scope_id = (int(scope) if scope.isdigit() else socket.if_nametoindex(scope)) if scope else 0
        cdef const uint8_t *data = packed
        check(c.jv_endpoint_set(&e.raw, AF_INET if len(packed) == 4 else AF_INET6, data, port, scope_id), "endpoint")
        e.raw.socket = socket_id
        return e

    @property
    def ip(self):
        """4 or 16 bytes, network order."""
        return PyBytes_FromStringAndSize(<const char *>jv_ip_bytes(&self.raw), 4 if jv_family(&self.raw) == AF_INET else 16)

    @property
    def host(self):
        text = str(ipaddress.ip_address(self.ip))
        return f"{text}%{jv_scope(&self.raw)}" if jv_scope(&self.raw) else text

    @property
    def port(self):
        return jv_port(&self.raw)

    @property
    def socket_id(self):
        return self.raw.socket

    @property
    def source(self):
        """Address and port in bytes: what a cookie is bound to (whitepaper §5.4.7)."""
        return self.ip + jv_port(&self.raw).to_bytes(2, "big")

    @property
    def prefix(self):
        """The /32 or /64 that rate limits count by."""
        return self.ip[:8] if jv_family(&self.raw) == AF_INET6 else self.ip

    def same_remote(self, Endpoint other not None):
        return c.jv_endpoint_same_remote(&self.raw, &other.raw)

    def __eq__(self, other):
        if not isinstance(other, Endpoint):
            return NotImplemented
        return memcmp(&self.raw, &(<Endpoint>other).raw, sizeof(self.raw)) == 0

    def __hash__(self):
        return hash((self.ip, jv_port(&self.raw), self.raw.socket))

    def __str__(self):
        host = self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def __repr__(self):
        return f"Endpoint({self})"


cdef class Event:
    """One thing that Python must see. Which fields count depends on `kind` (jv/engine.h)."""

    cdef readonly int kind
    cdef readonly int reason
    cdef readonly int slot
    cdef readonly int size_bytes
    cdef readonly uint64_t value
    cdef readonly Endpoint source
    cdef readonly bytes data


cdef Event event_of(const c.jv_event *raw):
    cdef Event event = Event.__new__(Event)
    event.kind = raw.kind
    event.reason = raw.reason
    event.slot = <int>raw.slot
    event.size_bytes = <int>raw.bytes
    event.value = raw.value
    if jv_family(&raw.from_):
        event.source = Endpoint.__new__(Endpoint)
        event.source.raw = raw.from_
    event.data = PyBytes_FromStringAndSize(<const char *>raw.data, raw.len)
    return event


cdef int fill_prefix(c.jv_prefix *prefix, network) except -1:
    packed = network.network_address.packed
    memset(prefix, 0, sizeof(c.jv_prefix))
    prefix.family = 4 if len(packed) == 4 else 6
    prefix.len = network.prefixlen
    memcpy(prefix.addr, <const char *>packed, len(packed))
    return 0


cdef class Engine:
    """Owns sockets, TUN device, sessions and routes of one worker. Not safe to share between threads.

    The caller keeps descriptors open for as long as the engine has them.
    """

    cdef c.jv_engine *_e

    def __cinit__(self, *, int sessions, int prefixes, int window_bits, bytes index_seed not None, limits not None,
                  uint64_t now_ns):
        cdef c.jv_engine_config config
        if len(index_seed) != 32:
            raise ValueError("index_seed is 32 random bytes")
        config.sessions = sessions
        config.prefixes = prefixes
        config.window_bits = window_bits
        memcpy(config.index_seed, <const char *>index_seed, 32)
        config.limits.rekey_after_ns = limits.rekey_after_time_ns
        config.limits.reject_after_ns = limits.reject_after_time_ns
        config.limits.keepalive_ns = limits.keepalive_timeout_ns
        config.limits.rekey_timeout_ns = limits.rekey_timeout_ns
        config.limits.rekey_after_messages = limits.rekey_after_messages
        config.limits.reject_after_messages = limits.reject_after_messages
        self._e = c.jv_engine_new(&config, now_ns)
        if self._e is NULL:
            raise DataplaneError(f"data plane: {os.strerror(errno)}")

    def __dealloc__(self):
        c.jv_engine_free(self._e)

    # --- sockets and device

    def add_socket(self, int fd):
        """Take a UDP socket; returns its id. The socket is prepared for source addresses and offloads."""
        return check(c.jv_engine_add_socket(self._e, fd), "add socket")

    def remove_socket(self, int socket_id):
        check(c.jv_engine_remove_socket(self._e, socket_id), "remove socket")

    def socket_for(self, bint ipv6):
        """Id of the first socket of a family; DataplaneError when there is none."""
        return check(c.jv_engine_socket_for(self._e, AF_INET6 if ipv6 else AF_INET), "no socket for this address family")

    def udp_features(self):
        """Whether every socket can send and receive trains in one call: {"udp_segment": …, "udp_gro": …}."""
        features = c.jv_engine_udp_features(self._e)
        return {"udp_segment": bool(features & c.JV_UDP_GSO), "udp_gro": bool(features & c.JV_UDP_GRO)}

    def set_tun(self, int fd, int mtu_bytes):
        check(c.jv_engine_set_tun(self._e, fd, mtu_bytes), "set TUN device")

    def set_inner(self, address):
        """Our own inner address (ipaddress), from which inner senders are told of undeliverable packets."""
        packed = address.packed
        check(c.jv_engine_set_inner(self._e, 4 if len(packed) == 4 else 6, packed), "set inner address")

    # --- sessions

    def add_session(self):
        """A new row; returns its slot. DataplaneError when the table is full."""
        cdef uint32_t slot
        check(c.jv_engine_add_session(self._e, &slot), "add session")
        return slot

    def remove_session(self, uint32_t slot):
        """Routes are removed by the caller, who knows them."""
        check(c.jv_engine_remove_session(self._e, slot), "remove session")

    def new_index(self, uint32_t slot):
        """A fresh receiver index for one handshake."""
        cdef uint32_t index
        check(c.jv_engine_new_index(self._e, slot, &index), "new index")
        return index

    def slot_of(self, uint32_t index):
        """The slot a receiver index names, or None."""
        cdef uint32_t slot
        return slot if c.jv_engine_slots_of(self._e, &index, 1, &slot) else None

    def slots_of(self, const uint32_t[::1] indices not None, uint32_t[::1] slots not None):
        """Fill `slots` with what `indices` name (0xFFFFFFFF: nothing); returns how many name a session."""
        if slots.shape[0] < indices.shape[0]:
            raise ValueError("slots is shorter than indices")
        if indices.shape[0] == 0:
            return 0
        return c.jv_engine_slots_of(self._e, &indices[0], indices.shape[0], &slots[0])

    def install(self, uint32_t slot, keys not None, uint64_t now_ns):
        """Install the TransportKeys of a finished handshake; an initiator's waiting packets leave at once."""
        cdef c.jv_keys raw
        cdef bytes send = keys.send_key, recv = keys.recv_key
        if len(send) != 32 or len(recv) != 32:
            raise ValueError("traffic keys are 32 bytes")
        raw.send = <const uint8_t *><const char *>send
        raw.recv = <const uint8_t *><const char *>recv
        raw.local_index = keys.local_index
        raw.remote_index = keys.remote_index
        raw.initiator = keys.is_initiator
        check(c.jv_engine_install(self._e, slot, &raw, now_ns), "install keys")

    def erase_keys(self, uint32_t slot):
        check(c.jv_engine_erase_keys(self._e, slot), "erase keys")

    def set_endpoint(self, uint32_t slot, Endpoint to not None, uint64_t now_ns):
        """Where data goes from now on; packets that waited for an address leave at once."""
        check(c.jv_engine_set_endpoint(self._e, slot, &to.raw, now_ns), "set endpoint")

    def endpoint(self, uint32_t slot):
        """The Endpoint data is sent to, or None."""
        cdef Endpoint e = Endpoint.__new__(Endpoint)
        check(c.jv_engine_get_endpoint(self._e, slot, &e.raw), "endpoint")
        return e if jv_family(&e.raw) else None

    def set_keepalive(self, uint32_t slot, uint16_t seconds, uint64_t now_ns):
        check(c.jv_engine_set_keepalive(self._e, slot, seconds, now_ns), "set keepalive")

    def gave_up(self, uint32_t slot):
        """The handshake the engine asked for will not come: waiting packets are dropped, the next one asks again."""
        check(c.jv_engine_gave_up(self._e, slot), "give up")

    def stats(self, uint32_t slot):
        """Counters and key state of a session as a dict."""
        cdef c.jv_session_stats s
        check(c.jv_engine_stats(self._e, slot, &s), "stats")
        return {
            "rx_packets": s.rx_packets, "rx_bytes": s.rx_bytes, "tx_packets": s.tx_packets, "tx_bytes": s.tx_bytes,
            "latest_handshake_ns": s.latest_handshake_ns, "key_birth_ns": s.key_birth_ns,
            "has_current": bool(s.has_current), "has_next": bool(s.has_next), "has_previous": bool(s.has_previous),
            "staged": s.staged,
        }

    # --- routes

    def add_route(self, network, uint32_t slot):
        """Give an ipaddress network to a session; an equal one moves to it."""
        cdef c.jv_prefix prefix
        fill_prefix(&prefix, network)
        check(c.jv_engine_add_route(self._e, &prefix, slot), f"allowed address {network}")

    def remove_route(self, network, uint32_t slot):
        """Take a network from a session, unless it has moved to another one."""
        cdef c.jv_prefix prefix
        fill_prefix(&prefix, network)
        c.jv_engine_remove_route(self._e, &prefix, slot)

    # --- pumps

    def pump_udp(self, int socket_id, uint64_t now_ns):
        """Take what a socket has, bounded; returns how many datagrams."""
        cdef int n
        with nogil:
            n = c.jv_engine_pump_udp(self._e, socket_id, now_ns)
        return check(n, "receive")

    def pump_tun(self, uint64_t now_ns):
        """Take what the TUN device has, bounded; returns how many packets."""
        cdef int n
        with nogil:
            n = c.jv_engine_pump_tun(self._e, now_ns)
        return check(n, "read TUN device")

    def tick(self, uint64_t now_ns):
        """Run the timers that are due."""
        with nogil:
            c.jv_engine_tick(self._e, now_ns)

    @property
    def next_deadline_ns(self):
        """When `tick` has work; NO_DEADLINE when never."""
        return c.jv_engine_next_deadline(self._e)

    def send(self, Endpoint to not None, bytes data not None):
        """Send one handshake message; False when the socket did not take it."""
        return c.jv_engine_send(self._e, &to.raw, <const uint8_t *><const char *>data, len(data)) == 0

    # --- what Python must see

    def poll(self, int most):
        """Up to `most` events, facts about authenticated sessions before unauthenticated handshakes."""
        cdef list events = []
        cdef const c.jv_event *raw
        while most > 0:
            raw = c.jv_engine_peek(self._e)
            if raw is NULL:
                break
            events.append(event_of(raw))
            c.jv_engine_consume(self._e)
            most -= 1
        return events

    @property
    def handshakes_waiting(self):
        return c.jv_engine_handshakes_waiting(self._e)

    def counters(self):
        """All counters of the data plane by name."""
        cdef const c.jv_counters *counters = c.jv_engine_counters(self._e)
        return {c.jv_counter_name(i).decode(): counters.n[i] for i in range(c.JV_COUNTER_COUNT)}
