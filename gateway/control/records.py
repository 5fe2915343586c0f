# SPDX-License-Identifier: Apache-2.0
"""What one process writes down: the audit journal and the durable store, and what it finds there at its start.

Rule: neither ever delays a decision. Keys are never written.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.control import clock, statedir
from gateway.control.auditfile import load_signing_key
from gateway.control.auditlog import AuditLog
from gateway.control.auditread import last_versions
from gateway.control.configmodel import ALL_KEPT, Audit
from gateway.control.peers import Peer
from gateway.control.sessions import Live, Sessions
from gateway.control.store import SavedSession, Store
from gateway.core import driver
from gateway.core.policy import Policy
from gateway.errors import HostError, TryLater
from gateway.noise.timestamp import TimestampSource

JOURNAL_FOLDER: Final = "audit"
# A group of records is on disk in 20 ms; a command waits for ten seconds at most.
ROTATE_S: Final = 5.0


class Records:
    """Audit log and store of one interface. `close` flushes both."""

    def __init__(
        self,
        state_dir: Path,
        interface: str,
        log: structlog.stdlib.BoundLogger,
        files: Audit = ALL_KEPT,
    ) -> None:
        statedir.ensure_dir(state_dir)
        self._interface = interface
        self.audited: dict[bytes, int] = {}
        self.journal = statedir.ensure_dir(state_dir / JOURNAL_FOLDER)
        key = load_signing_key(state_dir, secrets.token_bytes)
        self.audit = AuditLog(
            self.journal,
            socket.gethostname(),
            key,
            interface=interface,
            max_bytes=files.max_bytes,
            keep=files.keep_files,
            on_problem=lambda text: log.warning("audit", problem=text),
        )
        self.store = Store(
            state_dir / f"sessions-{interface}.db", on_problem=lambda text: log.warning("store", problem=text)
        )

    async def read_versions(self) -> None:
        """The highest version of each session in the journal: what is restored goes on above it. Reads every file."""
        self.audited = await asyncio.to_thread(last_versions, self.journal, self._interface)

    def timestamps(self) -> TimestampSource:
        """Our own initiations go on above the last stamp of an earlier run (whitepaper §5.1)."""
        return TimestampSource(self.store.load_own_stamp())

    def follow(self, sessions: Sessions) -> None:
        """Keep the store true from now on."""
        sessions.on_persist = self._persist

    def _persist(self, now_ns: int, live: Live) -> None:
        key = live.peer.config.public_key
        if live.core.ended:
            self.store.forget_session(key)
        else:
            self.store.save_session(key, driver.snapshot(live.core, now_ns), live.instance, clock.unix_ns())

    def stamp(self, peer: Peer, own: TimestampSource) -> None:
        """A handshake completed: its timestamps must not come again, whatever happens to this process."""
        if peer.handshake is not None and peer.handshake.greatest_timestamp:
            self.store.save_stamp(peer.config.public_key, peer.handshake.greatest_timestamp)
        if own.last:
            self.store.save_own_stamp(own.last)

    def spoke(self, peer: Peer) -> None:
        """It speaks jump frames: remembered over restarts."""
        if not peer.spoken:
            peer.spoken = True
            self.store.save_spoken(peer.config.public_key, clock.unix_ns())

    def saved(self) -> dict[bytes, SavedSession]:
        """The sessions an earlier run left, by the peer's public key."""
        return {one.peer_key: one for one in self.store.load_sessions()}

    def resume(
        self, now_ns: int, sessions: Sessions, peer: Peer, saved: SavedSession, policy: Policy
    ) -> Live | None:
        """T22 for one of them; None when its time is over."""
        down_ns = saved.down_ns(clock.unix_ns())
        audited_version = self.audited.get(saved.record.session_id, 0)
        live = sessions.restore(now_ns, peer, saved.record, policy, down_ns, audited_version)
        if live is not None:
            live.instance = saved.instance
        return live

    async def rotate(self, _args: dict[str, Any]) -> dict[str, Any]:
        """``audit.rotate``: a new file of the journal; ``jvpn.audit.rotate/1`` names the one that is complete now."""
        wanted = asyncio.wrap_future(self.audit.rotate())
        try:
            complete = await asyncio.wait_for(wanted, ROTATE_S)
        except TimeoutError:
            raise TryLater(
                "the journal is not written at present; its problem is in the daemon's log"
            ) from None
        except OSError as error:
            raise HostError(f"the journal cannot begin a new file: {error.strerror}") from None
        return {"schema": "jvpn.audit.rotate/1", "interface": self._interface, "complete": str(complete)}

    def close(self) -> None:
        """Write what waits. Blocks for at most some seconds."""
        self.store.close()
        self.audit.close()
