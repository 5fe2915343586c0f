# SPDX-License-Identifier: Apache-2.0
"""A HELLO that waited while further handshakes of the same client came: its keypair is gone."""

from __future__ import annotations

from types import SimpleNamespace

from gateway import frames as fr
from gateway.core.states import State
from gateway.dataplane.engine import Endpoint
from tests.unit.control.standing import OFFERS, T0, Standing

AT = Endpoint.of("172.16.0.1", 51820, 0)


def test_it_is_passed_over_and_nothing_else_is_lost() -> None:
    made = Standing(1)
    peer = made.add_peer(0)
    made.renew(peer, AT)
    old = peer.births[-1]
    made.keeper.confirmed(T0, peer, old.index, AT)
    made.engine.erase_keys(peer.slot)
    hello = fr.Hello(
        capabilities=0,
        instance_id=bytes(range(16)),
        session_id=fr.NO_SESSION,
        binding_epoch=0,
        path_id=1,
        suites=OFFERS,
        liveness_interval_ms=300,
        liveness_misses=3,
    )
    event = SimpleNamespace(local_index=old.index, source=AT)
    made.keeper.reception.hello(T0, peer, event, hello)  # type: ignore[arg-type]
    live = made.sessions.of(peer.slot)
    assert live is not None and live.core.state is State.ATTACHED
    assert (live.instance, live.has_paths, peer.spoken) == (b"", False, False)
