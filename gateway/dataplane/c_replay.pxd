# SPDX-License-Identifier: Apache-2.0
"""jv/replay.h"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "jv/replay.h" nogil:
    enum:
        JV_REPLAY_BITS_DEFAULT

    enum jv_replay_verdict:
        JV_REPLAY_OK
        JV_REPLAY_SEEN
        JV_REPLAY_OLD

    struct jv_replay:
        uint64_t *words

    size_t jv_replay_bytes(uint32_t bits)
    int jv_replay_init(jv_replay *w, uint64_t *words, uint32_t bits)
    int jv_replay_grow(jv_replay *w, uint64_t *words, uint32_t bits)
    uint64_t jv_replay_highest(const jv_replay *w)
    uint64_t jv_replay_size(const jv_replay *w)
    jv_replay_verdict jv_replay_peek(const jv_replay *w, uint64_t counter)
    jv_replay_verdict jv_replay_commit(jv_replay *w, uint64_t counter)
