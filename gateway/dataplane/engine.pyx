# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False
"""The door to the C data plane: one class per C object, no policy.

Python sets up tables, calls the pumps when a descriptor is ready, and reads events; it never holds a packet.
Every C error becomes a DataplaneError in one place.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBUSY, ENOENT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import errno as errnos
import ipaddress
import os
import socket

from gateway.errors import DataplaneError, NotFound

from gateway.dataplane cimport c_engine as c

EVENT_HANDSHAKE = c.JV_EVENT_HANDSHAKE
EVENT_WANTED = c.JV_EVENT_WANTED
EVENT_NOTICE = c.JV_EVENT_NOTICE
EVENT_CONFIRMED = c.JV_EVENT_CONFIRMED
EVENT_ERASED = c.JV_EVENT_ERASED
EVENT_CONTROL = c.JV_EVENT_CONTROL
EVENT_SUSPECTED = c.JV_EVENT_SUSPECTED
EVENT_MISSED = c.JV_EVENT_MISSED
EVENT_ANSWERED = c.JV_EVENT_ANSWERED
EVENT_MEASURED = c.JV_EVENT_MEASURED
EVENT_PEER_BINDING = c.JV_EVENT_PEER_BINDING
EVENT_PMTU = c.JV_EVENT_PMTU
EVENT_SOCKET_ERROR = c.JV_EVENT_SOCKET_ERROR
EVENT_WORKER_FAILED = c.JV_EVENT_WORKER_FAILED
NOTICE_NEWEST = c.JV_NOTICE_NEWEST
NOTICE_COPY = c.JV_NOTICE_COPY
WANTED_NO_KEY = c.JV_WANTED_NO_KEY
WANTED_REKEY = c.JV_WANTED_REKEY
WANTED_SILENT = c.JV_WANTED_SILENT
NO_DEADLINE = 0xFFFFFFFFFFFFFFFF

# As gateway/net/tun.py names what an open device has; others are not the engine's business.
cdef dict TUN_FEATURES = {
    "vnet_hdr": c.JV_TUN_VNET,
    "tso4": c.JV_TUN_TSO4,
    "tso6": c.JV_TUN_TSO6,
    "uso4": c.JV_TUN_USO4,
    "uso6": c.JV_TUN_USO6,
}

cdef int AF_INET = socket.AF_INET
cdef int AF_INET6 = socket.AF_INET6


cdef int check(int result, str what) except -1:
    """A negative errno of C becomes an exception that says what was attempted."""
    if result >= 0:
        return result
    if result == -2:
        raise NotFound(f"{what}: no such session or socket")
    raise DataplaneError(f"{what}: {os.strerror(-result)}")


include "events.pxi"


cdef int fill_prefix(c.jv_prefix *prefix, network) except -1:
    packed = network.network_address.packed
    memset(prefix, 0, sizeof(c.jv_prefix))
    prefix.family = 4 if len(packed) == 4 else 6
    prefix.len = network.prefixlen
    memcpy(prefix.addr, <const char *>packed, len(packed))
    return 0


# A send that comes to nothing is the network's business; these say so. Anything else is the caller's mistake.
cdef frozenset UNSENT = frozenset(
    -n for n in (errnos.EACCES, errnos.EAGAIN, errnos.EDESTADDRREQ, errnos.EDQUOT, errnos.ENOKEY)
)


cdef class Engine:
    """Owns sockets, TUN device, sessions and routes.

    `client`: jump frames travel towards the client, and only configured endpoints are ever answered.
    `udp_segment`, `udp_gro`: False does without, whatever the kernel has.
    `workers`: 0 = the caller pumps; else so many native threads pump, and the caller only polls and sets up.

    The caller keeps descriptors open for as long as the engine has them.
    """

    cdef c.jv_engine *_e

    def __cinit__(self, *, int sessions, int prefixes, int window_bits, bytes index_seed not None, limits not None,
                  uint64_t now_ns, bint client=False, bint udp_segment=True, bint udp_gro=True,
                  unsigned workers=0):
        cdef c.jv_engine_config config
        if len(index_seed) != 32:
            raise ValueError("index_seed is 32 random bytes")
        memset(&config, 0, sizeof(config))
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
        config.client = client
        config.udp_without = (0 if udp_segment else c.JV_UDP_GSO) | (0 if udp_gro else c.JV_UDP_GRO)
        config.workers = workers
        self._e = c.jv_engine_new(&config, now_ns)
        if self._e is NULL:
            raise DataplaneError(f"data plane: {os.strerror(errno)}")

    def __dealloc__(self):
        c.jv_engine_free(self._e)

    # --- sockets and device

    def add_socket(self, int fd, more=()):
        """Take a UDP socket; returns its id. It is prepared for source addresses and offloads.

        `more`: those of the other workers, bound to the same address and port (SO_REUSEPORT).
        """
        cdef int[c.JV_WORKERS_MAX] fds
        self._gather(fds, fd, more)
        return check(c.jv_engine_add_sockets(self._e, fds), "add socket")

    def remove_socket(self, int socket_id):
        """No worker has its descriptors when this returns."""
        cdef int result
        with nogil:
            result = c.jv_engine_remove_socket(self._e, socket_id)
        check(result, "remove socket")

    cdef int _gather(self, int *fds, int fd, more) except -1:
        """One descriptor for each worker."""
        wanted = max(1, c.jv_engine_worker_count(self._e))
        if 1 + len(more) != wanted:
            raise ValueError(f"{1 + len(more)} descriptors for {wanted} workers")
        for i, each in enumerate((fd, *more)):
            fds[i] = each
        return 0

    def socket_for(self, bint ipv6):
        """Id of the first socket of a family; DataplaneError when there is none."""
        family = AF_INET6 if ipv6 else AF_INET
        return check(c.jv_engine_socket_for(self._e, family), "no socket for this address family")

    def udp_features(self):
        """Whether every socket can send and receive trains in one call: {"udp_segment": …, "udp_gro": …}."""
        features = c.jv_engine_udp_features(self._e)
        return {"udp_segment": bool(features & c.JV_UDP_GSO), "udp_gro": bool(features & c.JV_UDP_GRO)}

    def set_tun(self, int fd, int mtu_bytes, features=frozenset(), more=()):
        """`features`: what the open device has, as words of `gateway.net.tun`; decides what its packets look like.

        `more`: the queues of the other workers.
        """
        cdef unsigned bits = 0
        cdef int[c.JV_WORKERS_MAX] fds
        self._gather(fds, fd, more)
        for word in features:
            bits |= <unsigned>TUN_FEATURES.get(word, 0)
        check(c.jv_engine_set_queues(self._e, fds, mtu_bytes, bits), "set TUN device")

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

    def install(self, uint32_t slot, keys not None, uint64_t now_ns, control=None, bint hold=False, data=None):
        """Install the TransportKeys of a finished handshake; an initiator's waiting packets leave at once.

        `control`: the two keys of suite 0, (send, recv), 32 bytes each; None: no control messages under it.
        `hold`: a HELLO comes first (protocol.md §2). Initiator: nothing leaves before `send_data` has sent it, and
        control goes under the previous keypair until `promote` (on WELCOME). Responder: the keypair receives, but
        the current one goes on sealing until `promote` (on HELLO).
        `data`: suite number -> (send, recv), of type 5 data; see `choose_suite`.
        """
        cdef c.jv_keys raw
        cdef bytes send = keys.send_key, recv = keys.recv_key
        if len(send) != 32 or len(recv) != 32:
            raise ValueError("traffic keys are 32 bytes")
        memset(&raw, 0, sizeof(raw))
        raw.send = <const uint8_t *><const char *>send
        raw.recv = <const uint8_t *><const char *>recv
        raw.local_index = keys.local_index
        raw.remote_index = keys.remote_index
        raw.initiator = keys.is_initiator
        raw.hold = hold
        cdef bytes control_send, control_recv
        if control is not None:
            control_send, control_recv = control
            if len(control_send) != 32 or len(control_recv) != 32:
                raise ValueError("control keys are 32 bytes")
            raw.control_send = <const uint8_t *><const char *>control_send
            raw.control_recv = <const uint8_t *><const char *>control_recv
        for suite, pair in (data or {}).items():
            send, recv = pair
            if not 2 <= suite <= 3 or len(send) != 32 or len(recv) != 32:
                raise ValueError("data keys are 32 bytes, of suite 2 or 3")
            raw.data_send[<int>suite] = <const uint8_t *><const char *>send
            raw.data_recv[<int>suite] = <const uint8_t *><const char *>recv
        check(c.jv_engine_install(self._e, slot, &raw, now_ns), "install keys")

    def promote(self, uint32_t slot, uint32_t local_index, uint64_t now_ns):
        """HELLO (gateway) or WELCOME (client) has come under a held keypair: use it for everything from now on.
        NotFound for another keypair, or a responder's whose first message has not come."""
        check(c.jv_engine_promote(self._e, slot, local_index, now_ns), "promote keypair")

    def mute(self, uint32_t slot, bint on, uint64_t now_ns):
        """Whether inner packets wait (outwards) and are dropped (inwards): a peer that must speak jump frames has not
        shown yet that it does. Everything else passes."""
        check(c.jv_engine_mute(self._e, slot, on, now_ns), "mute session")

    def expect_suites(self, uint32_t slot, uint32_t local_index):
        """Our HELLO has left under this keypair: data of any suite it offers is taken until `choose_suite`."""
        check(c.jv_engine_choose_suite(self._e, slot, local_index, 0), "expect suites")

    def choose_suite(self, uint32_t slot, uint32_t local_index, unsigned suite):
        """Both ends agreed: data goes under this suite (1: type 4). NotFound when the keypair does not offer it."""
        if suite < 1:
            raise ValueError("suite 0 is control's")
        check(c.jv_engine_choose_suite(self._e, slot, local_index, suite), "choose suite")

    def erase_keys(self, uint32_t slot, uint32_t keep_index=0):
        """End a session: wipe its keys, but for the keypair that carries the next one, and its paths."""
        check(c.jv_engine_erase_keys(self._e, slot, keep_index), "erase keys")

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
            "has_older": bool(s.has_older), "staged": s.staged, "suite": s.suite,
            "window_packets": s.window_packets,
        }

    def traffic(self, uint32_t slot):
        """(rx_bytes, tx_bytes, latest_handshake_ns) of a session: what is read of thousands at once."""
        cdef c.jv_session_stats s
        check(c.jv_engine_stats(self._e, slot, &s), "stats")
        return s.rx_bytes, s.tx_bytes, s.latest_handshake_ns

    # --- paths (jump sessions; protocol.md §4)

    def open_paths(self, uint32_t slot, uint64_t now_ns):
        """The session speaks jump frames: addresses it writes from count for the ×3 budget from now on."""
        check(c.jv_engine_open_paths(self._e, slot, now_ns), "open paths")

    def set_path(self, uint32_t slot, uint8_t path_id, Endpoint at not None, uint64_t now_ns):
        """A validated path (client: one of its sockets) is at this address; an id that is there moves.

        Another path at the same address is dropped. DataplaneError beyond eight paths.
        """
        check(c.jv_engine_set_path(self._e, slot, path_id, &at.raw, now_ns), "set path")

    def drop_path(self, uint32_t slot, uint8_t path_id):
        """Forget a path and what was measured on it; False when there was none."""
        cdef int result = c.jv_engine_drop_path(self._e, slot, path_id)
        return result != -ENOENT and check(result, "drop path") == 0

    def bind(self, uint32_t slot, uint8_t path_id, uint64_t epoch, uint64_t now_ns):
        """Data goes to this path from now on and probes say so; waiting packets leave at once."""
        check(c.jv_engine_bind(self._e, slot, path_id, epoch, now_ns), "bind path")

    def lend(self, uint32_t slot, uint8_t path_id, uint64_t now_ns):
        """Data may go to this path while the gateway is asked to bind it; probes go on saying that nothing is bound.
        `bind` and `clear_binding` end it. DataplaneError while a path is bound."""
        check(c.jv_engine_lend(self._e, slot, path_id, now_ns), "lend path")

    def clear_binding(self, uint32_t slot, uint64_t epoch, uint64_t now_ns):
        """Nothing is bound: control messages only, inner packets wait (64 a session, the oldest gives way)."""
        check(c.jv_engine_clear_binding(self._e, slot, epoch), "clear binding")

    def set_liveness(self, uint32_t slot, uint64_t interval_ns, uint64_t now_ns, uint64_t idle_ns=0):
        """The profile's probe interval, 0 = no probes. `idle_ns`: what the gateway announced for idle sessions;
        0 = max(interval, idle paths / probe budget)."""
        check(c.jv_engine_set_liveness(self._e, slot, interval_ns, idle_ns, now_ns), "set liveness")

    def set_thresholds(self, uint32_t slot, *, uint32_t loss_enter_ppm, uint32_t loss_exit_ppm,
                       uint32_t latency_enter_us, uint32_t latency_factor, uint32_t jitter_enter_us,
                       uint32_t exit_ratio_ppm):
        """What EVENT_MEASURED waits for: a figure of any path crosses one of these, or moves noticeably."""
        cdef c.jv_thresholds limits
        limits.loss_enter_ppm = loss_enter_ppm
        limits.loss_exit_ppm = loss_exit_ppm
        limits.latency_enter_us = latency_enter_us
        limits.latency_factor = latency_factor
        limits.jitter_enter_us = jitter_enter_us
        limits.exit_ratio_ppm = exit_ratio_ppm
        check(c.jv_engine_set_thresholds(self._e, slot, &limits), "set thresholds")

    def probe_path(self, uint32_t slot, uint8_t path_id, uint64_t interval_ns, bint report, uint64_t now_ns):
        """Probe at this interval, 0 = the profile's. `report`: every answer is an event."""
        check(c.jv_engine_probe_path(self._e, slot, path_id, interval_ns, report, now_ns), "probe path")

    def set_probe_budget(self, uint32_t per_s):
        """Probes per second that the paths of all idle sessions share."""
        c.jv_engine_set_probe_budget(self._e, per_s)

    @property
    def idle_interval_ns(self):
        """At what interval the budget lets idle paths be probed now; at most 25 s, 0 = no restriction."""
        return c.jv_engine_idle_interval(self._e)

    @property
    def idle_paths(self):
        return c.jv_engine_idle_paths(self._e)

    def duplicate(self, uint32_t slot, uint8_t path_a, uint8_t path_b, uint64_t until_ns, uint64_t now_ns):
        """Send data of the bound one of two paths on the other too, at most 2 s in any 10; `until_ns` not after now
        ends it, whatever the paths. False: not allowed now, or no such path."""
        return c.jv_engine_duplicate(self._e, slot, path_a, path_b, until_ns, now_ns) == 0

    def copy_to(self, uint32_t slot, Endpoint to not None, uint64_t until_ns, uint64_t now_ns,
                uint64_t credit_bytes=0):
        """Copy downstream to an address under validation, within three times what came from it. False: no slot."""
        cdef int result = c.jv_engine_copy_to(self._e, slot, &to.raw, until_ns, credit_bytes, now_ns)
        return result != -EBUSY and check(result, "copy downstream") == 0

    def stop_copy(self, uint32_t slot, Endpoint to not None):
        c.jv_engine_stop_copy(self._e, slot, &to.raw)

    def path_stats(self, uint32_t slot, uint8_t path_id, uint64_t now_ns):
        """What is measured on a path now, as a dict."""
        cdef c.jv_path_stats s
        check(c.jv_engine_path_stats(self._e, slot, path_id, now_ns, &s), "path statistics")
        return {
            "tx_packets": s.tx_packets, "tx_bytes": s.tx_bytes, "rx_packets": s.rx_packets, "rx_bytes": s.rx_bytes,
            "heard_ns": s.heard_ns, "answered_ns": s.answered_ns, "pto_ns": s.pto_ns, "interval_ns": s.interval_ns,
            "mtu_bytes": s.mtu_bytes, "misses": s.misses, "streak": s.streak, "suspect": bool(s.suspect),
            "bound": bool(s.bound), "numbers": numbers_of(&s.measured),
        }

    # --- jump frames

    cdef bint _send_frames(self, c.jv_outgoing *m, Endpoint to, bytes plain, uint64_t now_ns) except -1:
        m.to = &to.raw if to is not None else NULL
        m.plain = <const uint8_t *><const char *>plain
        m.len = len(plain)
        cdef int result = c.jv_engine_send_control(self._e, m, now_ns)
        if result in UNSENT:
            return False
        check(result, "send jump frames")
        return True

    def send_control(self, uint32_t slot, uint32_t local_index, Endpoint to, bytes plain not None, uint64_t now_ns,
                     uint8_t path_id=0):
        """Send one message of frames as type 5 control, under the keypair named (0 = the current one).

        `to`: an address; None = that of `path_id`, or with 0 where data goes. False when nothing was sent: no
        usable keypair or no control keys, no address, one that is no path and sent us nothing, beyond three times
        what came from there, or the socket refused.
        """
        cdef c.jv_outgoing m
        memset(&m, 0, sizeof(m))
        m.slot = slot
        m.local_index = local_index
        m.path_id = path_id
        return self._send_frames(&m, to, plain, now_ns)

    def send_data(self, uint32_t slot, uint32_t local_index, Endpoint to, bytes plain not None, uint64_t now_ns):
        """The same as a type 4 data message: HELLO, WELCOME, REFUSE. Waiting packets follow it."""
        cdef c.jv_outgoing m
        memset(&m, 0, sizeof(m))
        m.slot = slot
        m.local_index = local_index
        m.as_data = True
        return self._send_frames(&m, to, plain, now_ns)

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
        """When `tick` has work; NO_DEADLINE when never, or when a native worker sees to it."""
        if c.jv_engine_worker_count(self._e) > 0:
            return NO_DEADLINE
        return c.jv_engine_next_deadline(self._e)

    # --- native workers

    def start_workers(self):
        """Start the threads; the device is there, sockets may also come and go later."""
        check(c.jv_engine_start_workers(self._e), "start workers")

    def stop_workers(self):
        """End the threads and wait for them; does no harm when none runs."""
        with nogil:
            c.jv_engine_stop_workers(self._e)

    @property
    def event_fd(self):
        """Readable when an event waits for `poll`; -1 without native workers."""
        return c.jv_engine_event_fd(self._e)

    def clear_event(self):
        """Before polling: `event_fd` becomes readable again with the next event."""
        c.jv_engine_clear_event(self._e)

    def worker_stats(self):
        """What each native worker has done, and the processor time of its thread."""
        cdef c.jv_worker_stats s
        found = []
        for i in range(c.jv_engine_worker_count(self._e)):
            check(c.jv_engine_worker_stats(self._e, i, &s), "worker statistics")
            found.append({
                "wakeups": s.wakeups, "rx_datagrams": s.rx_datagrams, "tx_datagrams": s.tx_datagrams,
                "cpu_ns": s.cpu_ns,
            })
        return found

    # --- what Python must see

    def send(self, Endpoint to not None, bytes data not None):
        """Send one handshake message; False when the socket did not take it."""
        return c.jv_engine_send(self._e, &to.raw, <const uint8_t *><const char *>data, len(data)) == 0

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

    def calm(self, uint64_t timer_ns):
        """Whether no event waits and `tick` has no work before the timer that stands: then a pump was all there was
        to do."""
        return c.jv_engine_peek(self._e) is NULL and c.jv_engine_next_deadline(self._e) >= timer_ns

    @property
    def handshakes_waiting(self):
        return c.jv_engine_handshakes_waiting(self._e)

    def counters(self):
        """All counters of the data plane by name."""
        cdef const c.jv_counters *counters = c.jv_engine_counters(self._e)
        return {c.jv_counter_name(i).decode(): counters.n[i] for i in range(c.JV_COUNTER_COUNT)}
