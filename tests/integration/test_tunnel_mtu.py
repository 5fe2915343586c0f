# SPDX-License-Identifier: Apache-2.0
"""Another MTU of the device while the tunnel works, on the loop and with native workers."""

from __future__ import annotations

import pytest

from gateway.control.configmodel import Workers
from gateway.errors import DataplaneError
from tests.integration.pair import MTU_BYTES
from tests.integration.test_tunnel_workers import ON_THE_LOOP, ONE, TWO, Pair, on_a_loop, threads, until

HEADER_BYTES = 20
EVERY_KIND = pytest.mark.parametrize("each", [ON_THE_LOOP, ONE, TWO], ids=["loop", "one", "two"])


async def passes(pair: Pair, payload: bytes) -> bool:
    """Whether it arrives, told by a small one behind it on every queue."""
    found: list[bytes] = []

    def came() -> bool:
        found.extend(pair.received())
        return found.count(b"behind") == len(pair.a.inner)

    for queue in range(len(pair.a.inner)):
        pair.send(payload, queue)
        pair.send(b"behind", queue)
    await until(came)
    large = len(found) - len(pair.a.inner)
    assert large in (0, len(pair.a.inner))
    return large > 0


@EVERY_KIND
def test_what_fits_the_new_one_passes_and_sessions_go_on(each: Workers) -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        large = bytes(MTU_BYTES + 500)
        assert not await passes(pair, large)
        for end in (pair.a, pair.b):
            end.tunnel.set_mtu(len(large) + HEADER_BYTES)
        assert len(threads()) == 2 * each.threads
        assert await passes(pair, large)
        for end in (pair.a, pair.b):
            end.tunnel.set_mtu(MTU_BYTES)
        assert not await passes(pair, large)
        pair.send(b"back", back=True)
        await until(lambda: pair.received(back=True) == [b"back"])
        # It has needed no other key; the other end may have asked where it is, before its worker told it.
        assert pair.a.tunnel.exchange.counters["initiations_sent"] == 1

    on_a_loop(each, each, work)


@EVERY_KIND
def test_what_waits_for_a_handshake_is_dropped_and_counted(each: Workers) -> None:
    async def work(pair: Pair) -> None:
        pair.start()
        pair.b.tunnel.exchange.admits = lambda peer: False  # no answer: packets wait
        engine, slot = pair.a.tunnel.engine, next(iter(pair.a.tunnel.peers)).slot
        for _ in range(5):
            pair.send(b"waits")
        await until(lambda: engine.stats(slot)["staged"] == 5)
        pair.a.tunnel.set_mtu(1280)
        assert engine.stats(slot)["staged"] == 0
        for _ in range(3):
            pair.send(b"waits")
        await until(lambda: engine.stats(slot)["staged"] == 3)

    on_a_loop(each, each, work)


@EVERY_KIND
def test_one_that_makes_no_sense_leaves_everything_as_it_was(each: Workers) -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        with pytest.raises(DataplaneError):
            pair.a.tunnel.set_mtu(500)
        assert len(threads()) == 2 * each.threads
        assert await passes(pair, b"still")

    on_a_loop(each, each, work)
