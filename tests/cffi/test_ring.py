# SPDX-License-Identifier: Apache-2.0
"""The record ring against a queue."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.cffi.build import load

ffi, lib = load().ffi, load().lib


class RingMachine(RuleBasedStateMachine):
    """Records come out as they went in; a full ring refuses and loses nothing; an empty one takes any legal record."""

    @initialize(capacity=st.sampled_from([64, 128, 1024]))
    def start(self, capacity: int) -> None:
        self.ring = ffi.gc(lib.jv_ring_new(capacity), lib.jv_ring_free)
        self.limit = lib.jv_ring_record_max(self.ring)
        self.queue: deque[bytes] = deque()

    @rule(data=st.binary(max_size=600), spare=st.integers(0, 16))
    def put(self, data: bytes, spare: int) -> None:
        memory = lib.jv_ring_reserve(self.ring, len(data) + spare)
        if len(data) + spare > self.limit:
            assert memory == ffi.NULL
        elif not self.queue:
            assert memory != ffi.NULL
        if memory != ffi.NULL:
            ffi.memmove(memory, data, len(data))
            lib.jv_ring_commit(self.ring, len(data))
            self.queue.append(data)

    @rule()
    def take(self) -> None:
        size = ffi.new("uint32_t *")
        record = lib.jv_ring_peek(self.ring, size)
        assert (record == ffi.NULL) == (not self.queue)
        if self.queue:
            assert bytes(ffi.buffer(record, size[0])) == self.queue.popleft()
            lib.jv_ring_consume(self.ring)

    @invariant()
    def oldest_is_readable(self) -> None:
        if getattr(self, "queue", None):
            size = ffi.new("uint32_t *")
            assert bytes(ffi.buffer(lib.jv_ring_peek(self.ring, size), size[0])) == self.queue[0]


TestRingMachine = RingMachine.TestCase
