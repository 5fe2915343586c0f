# SPDX-License-Identifier: Apache-2.0
"""What a running gateway lets others look at, and how they are put beside it.

Rule: imports point down, so whoever shows a gateway (``ops``) is handed to it by who starts both.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from gateway.control.configmodel import Stats
from gateway.control.pauses import Pauses
from gateway.control.records import Records
from gateway.control.sessiondocs import Handler, SessionDocs
from gateway.control.sessions import Sessions
from gateway.control.tunnel import Tunnel
from gateway.control.watch import Watch
from gateway.errors import TryLater


class Phase(enum.Enum):
    """Where the process is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True)
class Observed:
    """One gateway. Only ``phase`` and ``stopping`` change."""

    interface: str
    started_ns: int
    tunnel: Tunnel
    sessions: Sessions
    docs: SessionDocs
    records: Records
    commands: Mapping[str, Handler] = field(default_factory=dict)  # those of the control socket
    phase: Phase = Phase.STARTING
    stopping: bool = False  # it drains for the last time
    watch: Watch = field(init=False)
    pauses: Pauses = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.tunnel)
        self.pauses = Pauses()

    def require_running(self) -> None:
        """``TryLater`` for an operator who asks too early or too late."""
        if self.phase is Phase.STARTING or self.stopping:
            raise TryLater(f"the gateway is {'stopping' if self.stopping else 'starting'}")


class Surface(Protocol):
    """Shows a gateway. A start that fails never stops the gateway. ``adopt``: another token, other names."""

    async def start(self) -> None: ...
    def adopt(self, settings: Stats) -> None: ...
    async def stop(self) -> None: ...


MakeSurface = Callable[[Observed, Stats, structlog.stdlib.BoundLogger], Surface]
