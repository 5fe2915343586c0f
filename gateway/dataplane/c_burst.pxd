# SPDX-License-Identifier: Apache-2.0
"""jv/burst.h, jv/endpoint.h, jv/counters.h: UDP in bursts."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "jv/counters.h" nogil:
    enum:
        JV_COUNTER_COUNT

    struct jv_counters:
        uint64_t n[JV_COUNTER_COUNT]

    const char *jv_counter_name(unsigned which)


cdef extern from "jv/endpoint.h" nogil:
    struct jv_endpoint:
        uint16_t socket

    int jv_endpoint_set(jv_endpoint *e, int family, const uint8_t *addr, uint16_t port, uint32_t scope_id)


cdef extern from "jv/burst.h" nogil:
    enum:
        JV_UDP_GSO
        JV_UDP_GRO
        JV_TRAIN_BYTES_MAX

    struct jv_msg:
        uint8_t *data
        uint32_t len
        uint16_t segment_bytes
        uint16_t segments
        jv_endpoint from_ "from"

    struct jv_train:
        const uint8_t *data
        uint32_t len
        uint16_t segment_bytes
        uint16_t flags
        const jv_endpoint *to

    struct jv_burst:
        pass

    struct jv_sender:
        pass

    int jv_udp_prepare(int fd, unsigned wanted)
    jv_burst *jv_burst_new(unsigned features, uint32_t datagram_bytes)
    void jv_burst_free(jv_burst *b)
    int jv_burst_recv(jv_burst *b, int fd, uint16_t socket, jv_counters *ctr)
    jv_msg *jv_burst_msgs(jv_burst *b)
    jv_sender *jv_sender_new(unsigned features)
    void jv_sender_free(jv_sender *s)
    uint32_t jv_sender_send(jv_sender *s, int fd, jv_train *trains, size_t n, jv_counters *ctr)
