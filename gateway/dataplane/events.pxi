# SPDX-License-Identifier: Apache-2.0
# Part of engine.pyx: what the engine's events and addresses look like in Python.

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
    static inline uint8_t *jv_local_bytes(struct jv_endpoint *e) {
        return e->remote.family == AF_INET6 ? e->local.v6.s6_addr : (uint8_t *)&e->local.v4.s_addr;
    }
    """
    int jv_family(const c.jv_endpoint *e)
    uint16_t jv_port(const c.jv_endpoint *e)
    uint32_t jv_scope(const c.jv_endpoint *e)
    const uint8_t *jv_ip_bytes(const c.jv_endpoint *e)
    uint8_t *jv_local_bytes(c.jv_endpoint *e)


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

    def sent_from(self, bytes local not None):
        """The same, sent from this address of ours (4 or 16 bytes, network order) instead of one the kernel chooses."""
        cdef Endpoint e = Endpoint.__new__(Endpoint)
        if len(local) != (4 if jv_family(&self.raw) == AF_INET else 16):
            raise ValueError("both ends of a path have addresses of one family")
        e.raw = self.raw
        memcpy(jv_local_bytes(&e.raw), <const char *>local, len(local))
        return e

    @property
    def ip(self):
        """4 or 16 bytes, network order."""
        size_bytes = 4 if jv_family(&self.raw) == AF_INET else 16
        return PyBytes_FromStringAndSize(<const char *>jv_ip_bytes(&self.raw), size_bytes)

    @property
    def local(self):
        """The address of this machine: where a message came in, what is to be sent from; b"" = any."""
        size_bytes = 4 if jv_family(&self.raw) == AF_INET else 16
        found = PyBytes_FromStringAndSize(<const char *>jv_local_bytes(&self.raw), size_bytes)
        return found if any(found) else b""

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
    cdef readonly int path_id
    cdef readonly int flags
    cdef readonly uint32_t local_index
    cdef readonly Endpoint source
    cdef readonly bytes data
    # EVENT_MEASURED: srtt_us, rttvar_us, jitter_us, loss_ppm, packets, lost, rtt_samples, jitter_samples.
    cdef readonly tuple numbers


cdef tuple numbers_of(const c.jv_measured *m):
    return (m.srtt_us, m.rttvar_us, m.jitter_us, m.loss_ppm, m.packets, m.lost, m.rtt_samples, m.jitter_samples)


cdef Event event_of(const c.jv_event *raw):
    cdef Event event = Event.__new__(Event)
    cdef c.jv_measured measured
    event.kind = raw.kind
    event.reason = raw.reason
    event.slot = <int>raw.slot
    event.size_bytes = <int>raw.bytes
    event.value = raw.value
    event.path_id = raw.path_id
    event.flags = raw.flags
    event.local_index = raw.local_index
    event.numbers = ()
    if raw.kind == c.JV_EVENT_MEASURED:
        memcpy(&measured, raw.data, sizeof(measured))
        event.numbers = numbers_of(&measured)
    if jv_family(&raw.from_):
        event.source = Endpoint.__new__(Endpoint)
        event.source.raw = raw.from_
    event.data = PyBytes_FromStringAndSize(<const char *>raw.data, raw.len)
    return event
