# SPDX-License-Identifier: Apache-2.0
"""jv/engine.h and jv/endpoint.h: the part of the C data plane that the gateway process drives."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "jv/endpoint.h" nogil:
    cdef struct jv_endpoint:
        uint16_t socket

    bint jv_endpoint_same_remote(const jv_endpoint *a, const jv_endpoint *b)
    int jv_endpoint_set(jv_endpoint *e, int family, const uint8_t *addr, uint16_t port, uint32_t scope_id)


cdef extern from "jv/route.h" nogil:
    cdef struct jv_prefix:
        uint8_t family
        uint8_t len
        uint8_t addr[16]


cdef extern from "jv/session.h" nogil:
    cdef struct jv_keys:
        const uint8_t *send
        const uint8_t *recv
        uint32_t local_index
        uint32_t remote_index
        bint initiator
        const uint8_t *control_send
        const uint8_t *control_recv
        bint hold
        const uint8_t *data_send[4]
        const uint8_t *data_recv[4]


cdef extern from "jv/counters.h" nogil:
    cdef struct jv_counters:
        uint64_t n[1]

    const char *jv_counter_name(unsigned which)
    enum:
        JV_COUNTER_COUNT


cdef extern from "jv/burst.h" nogil:
    enum:
        JV_UDP_GSO
        JV_UDP_GRO


cdef extern from "jv/vnet.h" nogil:
    enum:
        JV_TUN_VNET
        JV_TUN_TSO4
        JV_TUN_TSO6
        JV_TUN_USO4
        JV_TUN_USO6


cdef extern from "jv/engine.h" nogil:
    cdef struct jv_engine:
        pass

    cdef struct jv_limits:
        uint64_t rekey_after_ns
        uint64_t reject_after_ns
        uint64_t keepalive_ns
        uint64_t rekey_timeout_ns
        uint64_t rekey_after_messages
        uint64_t reject_after_messages

    cdef struct jv_engine_config:
        uint32_t sessions
        uint32_t prefixes
        uint32_t window_bits
        uint8_t index_seed[32]
        jv_limits limits
        bint client
        unsigned udp_without
        unsigned workers

    cdef struct jv_event:
        uint16_t kind
        uint16_t reason
        uint16_t len
        uint8_t path_id
        uint8_t flags
        uint32_t slot
        uint32_t bytes
        uint64_t value
        uint32_t local_index
        jv_endpoint from_ "from"
        uint8_t data[1]

    cdef struct jv_session_stats:
        uint64_t rx_packets
        uint64_t rx_bytes
        uint64_t tx_packets
        uint64_t tx_bytes
        uint64_t latest_handshake_ns
        uint64_t key_birth_ns
        bint has_current
        bint has_next
        bint has_previous
        bint has_older
        uint16_t staged
        uint8_t suite
        uint32_t window_packets

    enum:
        JV_EVENT_HANDSHAKE
        JV_EVENT_WANTED
        JV_EVENT_NOTICE
        JV_EVENT_CONFIRMED
        JV_EVENT_ERASED
        JV_EVENT_CONTROL
        JV_EVENT_SUSPECTED
        JV_EVENT_MISSED
        JV_EVENT_ANSWERED
        JV_EVENT_MEASURED
        JV_EVENT_PEER_BINDING
        JV_EVENT_PMTU
        JV_EVENT_SOCKET_ERROR
        JV_EVENT_WORKER_FAILED
        JV_NOTICE_NEWEST
        JV_NOTICE_COPY
        JV_WANTED_NO_KEY
        JV_WANTED_REKEY
        JV_WANTED_SILENT

    jv_engine *jv_engine_new(const jv_engine_config *config, uint64_t now_ns)
    void jv_engine_free(jv_engine *e)
    enum:
        JV_WORKERS_MAX

    int jv_engine_add_sockets(jv_engine *e, const int *fds)
    int jv_engine_remove_socket(jv_engine *e, int socket_id)
    unsigned jv_engine_udp_features(jv_engine *e)
    int jv_engine_socket_for(jv_engine *e, int family)
    int jv_engine_set_queues(jv_engine *e, const int *fds, uint32_t mtu_bytes, unsigned features)
    int jv_engine_add_session(jv_engine *e, uint32_t *slot)
    int jv_engine_remove_session(jv_engine *e, uint32_t slot)
    int jv_engine_new_index(jv_engine *e, uint32_t slot, uint32_t *index)
    size_t jv_engine_slots_of(jv_engine *e, const uint32_t *indices, size_t n, uint32_t *slots)
    int jv_engine_install(jv_engine *e, uint32_t slot, const jv_keys *keys, uint64_t now_ns)
    int jv_engine_erase_keys(jv_engine *e, uint32_t slot, uint32_t keep_index)
    int jv_engine_set_endpoint(jv_engine *e, uint32_t slot, const jv_endpoint *to, uint64_t now_ns)
    int jv_engine_get_endpoint(jv_engine *e, uint32_t slot, jv_endpoint *to)
    int jv_engine_set_keepalive(jv_engine *e, uint32_t slot, uint16_t seconds, uint64_t now_ns)
    int jv_engine_gave_up(jv_engine *e, uint32_t slot)
    int jv_engine_stats(jv_engine *e, uint32_t slot, jv_session_stats *out)
    int jv_engine_add_route(jv_engine *e, const jv_prefix *prefix, uint32_t slot)
    int jv_engine_remove_route(jv_engine *e, const jv_prefix *prefix, uint32_t slot)
    int jv_engine_pump_udp(jv_engine *e, int socket_id, uint64_t now_ns)
    int jv_engine_pump_tun(jv_engine *e, uint64_t now_ns)
    void jv_engine_tick(jv_engine *e, uint64_t now_ns)
    uint64_t jv_engine_next_deadline(jv_engine *e)
    int jv_engine_send(jv_engine *e, const jv_endpoint *to, const uint8_t *data, size_t len)
    const jv_event *jv_engine_peek(jv_engine *e)
    void jv_engine_consume(jv_engine *e)
    uint32_t jv_engine_handshakes_waiting(jv_engine *e)
    const jv_counters *jv_engine_counters(jv_engine *e)


cdef extern from "jv/worker.h" nogil:
    cdef struct jv_worker_stats:
        uint64_t wakeups
        uint64_t rx_datagrams
        uint64_t tx_datagrams
        uint64_t cpu_ns

    unsigned jv_engine_worker_count(const jv_engine *e)
    int jv_engine_start_workers(jv_engine *e)
    void jv_engine_stop_workers(jv_engine *e)
    int jv_engine_event_fd(const jv_engine *e)
    void jv_engine_clear_event(jv_engine *e)
    int jv_engine_worker_stats(jv_engine *e, unsigned number, jv_worker_stats *out)


cdef extern from "jv/path.h" nogil:
    cdef struct jv_measured:
        uint32_t srtt_us
        uint32_t rttvar_us
        uint32_t jitter_us
        uint32_t loss_ppm
        uint32_t packets
        uint32_t lost
        uint32_t rtt_samples
        uint32_t jitter_samples

    cdef struct jv_thresholds:
        uint32_t loss_enter_ppm
        uint32_t loss_exit_ppm
        uint32_t latency_enter_us
        uint32_t latency_factor
        uint32_t jitter_enter_us
        uint32_t exit_ratio_ppm


cdef extern from "jv/binding.h" nogil:
    cdef struct jv_outgoing:
        uint32_t slot
        uint32_t local_index
        const jv_endpoint *to
        const uint8_t *plain
        size_t len
        uint8_t path_id
        bint as_data

    cdef struct jv_path_stats:
        jv_measured measured
        uint64_t tx_packets
        uint64_t tx_bytes
        uint64_t rx_packets
        uint64_t rx_bytes
        uint64_t heard_ns
        uint64_t answered_ns
        uint64_t pto_ns
        uint64_t interval_ns
        uint16_t mtu_bytes
        uint8_t misses
        uint8_t streak
        bint suspect
        bint bound

    int jv_engine_open_paths(jv_engine *e, uint32_t slot, uint64_t now_ns)
    int jv_engine_promote(jv_engine *e, uint32_t slot, uint32_t local_index, uint64_t now_ns)
    int jv_engine_mute(jv_engine *e, uint32_t slot, bint mute, uint64_t now_ns)
    int jv_engine_choose_suite(jv_engine *e, uint32_t slot, uint32_t local_index, unsigned suite)
    int jv_engine_set_path(jv_engine *e, uint32_t slot, uint8_t path_id, const jv_endpoint *at, uint64_t now_ns)
    int jv_engine_drop_path(jv_engine *e, uint32_t slot, uint8_t path_id)
    int jv_engine_lend(jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns)
    int jv_engine_bind(jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t epoch, uint64_t now_ns)
    int jv_engine_clear_binding(jv_engine *e, uint32_t slot, uint64_t epoch)
    int jv_engine_set_liveness(jv_engine *e, uint32_t slot, uint64_t interval_ns, uint64_t idle_ns, uint64_t now_ns)
    int jv_engine_set_thresholds(jv_engine *e, uint32_t slot, const jv_thresholds *limits)
    int jv_engine_probe_path(jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t interval_ns, bint report,
                             uint64_t now_ns)
    void jv_engine_set_probe_budget(jv_engine *e, uint32_t per_s)
    uint64_t jv_engine_idle_interval(jv_engine *e)
    uint32_t jv_engine_idle_paths(jv_engine *e)
    int jv_engine_duplicate(jv_engine *e, uint32_t slot, uint8_t path_a, uint8_t path_b, uint64_t until_ns,
                            uint64_t now_ns)
    int jv_engine_copy_to(jv_engine *e, uint32_t slot, const jv_endpoint *to, uint64_t until_ns,
                          uint64_t credit_bytes, uint64_t now_ns)
    int jv_engine_stop_copy(jv_engine *e, uint32_t slot, const jv_endpoint *to)
    int jv_engine_send_control(jv_engine *e, const jv_outgoing *m, uint64_t now_ns)
    int jv_engine_path_stats(jv_engine *e, uint32_t slot, uint8_t path_id, uint64_t now_ns, jv_path_stats *out)
