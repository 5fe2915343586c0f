# SPDX-License-Identifier: Apache-2.0
"""What a gateway does before it goes: no new sessions, and its clients are told; the sessions stay in the store.

Rule: it is bounded. A client that hears nothing finds out by itself, as after kill -9; so nobody is waited for, and
what is not said in time is not said.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.control import clock, drain
from gateway.control.observed import Observed, Phase
from gateway.control.sessions import Live
from gateway.core.path import VALIDATED
from gateway.core.states import State
from gateway.frames import AdviceReason, SwitchAdvice

# Three datagrams get through where one in ten is lost, and in 0.3 s a round trip ends whatever was on its way.
PAUSES_S: Final = (0.0, 0.1, 0.2)
# One message costs 30 µs: 5,000 clients are told three times in half a second.
MOST_S: Final = 1.0
# Then packets are moved again.
BATCH: Final = 64


async def say(seen: Observed) -> int:
    """How many clients were told that the gateway goes and comes back. Takes MOST_S at most."""
    if seen.phase is Phase.STARTING:
        return 0  # no packet has moved yet
    drain.switch(seen, True)
    seen.stopping = True
    until_s = asyncio.get_running_loop().time() + MOST_S
    told: set[int] = set()
    for pause_s in PAUSES_S:
        lives = [live for live in seen.sessions if _listens(live)]
        if not lives:
            break
        await asyncio.sleep(pause_s)
        await _round(seen, lives, told, until_s)
    return len(told)


async def _round(seen: Observed, lives: list[Live], told: set[int], until_s: float) -> None:
    for number, live in enumerate(lives):
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(0)
            if asyncio.get_running_loop().time() > until_s:
                return
        if not live.ended:
            _tell(seen, live)
            told.add(live.slot)


def _listens(live: Live) -> bool:
    """A stock peer knows no such message, and who has no session yet nothing that could be kept."""
    return not live.core.stock and live.core.state is not State.BIRTH


def _tell(seen: Observed, live: Live) -> None:
    """On the bound path, or without one on every path that is proven. The preference asks for no switch."""
    bound_id = live.core.bound_id
    frame = SwitchAdvice(reason=int(AdviceReason.DRAIN), preferred_path_id=bound_id)
    for path in live.core.paths:
        if path.path_id == bound_id or (not bound_id and path.has(VALIDATED)):
            seen.sessions.send(clock.now_ns(), live, path.address, frame)
