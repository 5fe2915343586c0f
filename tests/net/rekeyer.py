# SPDX-License-Identifier: Apache-2.0
"""``jvpn`` with one command more on the control socket of its daemons: `rekey`, at a time of CLOCK_BOOTTIME.

Two daemons that are told the same time begin at the same moment, which nothing else makes happen on purpose. What
begins is the rekey of a reached usage limit, by the input that also reports a real one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.constants import NS_PER_S, REKEY_AFTER_MESSAGES
from gateway.control import clock
from gateway.control.ctlsock import Handler
from gateway.control.sessiondocs import SessionDocs
from gateway.core.inputs import KeyUsage
from gateway.ops.cli.main import main


class Docs(SessionDocs):
    """The commands of a daemon, and `rekey`."""

    def handlers(self) -> dict[str, Handler]:
        return {**super().handlers(), "rekey": self.rekey}

    async def rekey(self, args: dict[str, Any]) -> dict[str, Any]:
        """Every session, at ``at_ns``."""
        await asyncio.sleep(max(0, args["at_ns"] - clock.now_ns()) / NS_PER_S)
        now_ns = clock.now_ns()
        for live in list(self._sessions):
            self._sessions.feed(now_ns, live, KeyUsage(packets=REKEY_AFTER_MESSAGES, size_bytes=0))
        self._kick()
        return {"late_ns": now_ns - args["at_ns"]}


if __name__ == "__main__":
    from gateway.control import client, gateway

    client.SessionDocs = gateway.SessionDocs = Docs  # type: ignore[misc]
    main()
