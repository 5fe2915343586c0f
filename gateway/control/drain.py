# SPDX-License-Identifier: Apache-2.0
"""A drain: the gateway takes no new sessions, and those it has go on.

While it lasts /readyz fails, and a handshake of a peer without a session is left unanswered: WireGuard has no word for
a refusal, so who was not let in asks again. Rekeys, reattachments and new addresses are served as ever. A drain ends
with the process, or when an operator ends it.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.control.observed import Observed, Phase
from gateway.control.peers import Peer
from gateway.errors import UsageError

SCHEMA: Final = "jvpn.drain/1"


def switch(seen: Observed, on: bool) -> None:
    """Begin or end a drain. The same again changes nothing."""
    sessions = seen.sessions

    def admits(peer: Peer) -> bool:
        return not on or sessions.of(peer.slot) is not None

    seen.tunnel.exchange.admits = admits
    seen.phase = Phase.DRAINING if on else Phase.SERVING


async def command(seen: Observed, args: dict[str, Any]) -> dict[str, Any]:
    """``drain``: {"on": true} begins one, {"on": false} ends it; ``jvpn.drain/1`` says how many sessions there are."""
    on = args.get("on")
    if not isinstance(on, bool):
        raise UsageError("the argument 'on' must be true or false")
    seen.require_running()
    switch(seen, on)
    return {"schema": SCHEMA, "phase": seen.phase.value, "sessions": len(seen.sessions)}
