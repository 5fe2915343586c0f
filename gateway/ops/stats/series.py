# SPDX-License-Identifier: Apache-2.0
"""Series of single sessions and peers in /metrics, written only where they were asked for.

Rule 1: one pass over the sessions or the peers, which gives the loop back every few hundred of them; who left meanwhile
is left out.
Rule 2: a line is written anew when its value has changed, and kept until then: most sessions are idle, and names,
ids and labels never change. What is kept goes with its session. The text of neighbours is kept too, so that where
nothing has changed nothing is done for each of them but a look at its values.

The families of WireGuard carry the names and labels that dashboards for prometheus_wireguard_exporter ask for: public
keys are labels there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from gateway.constants import NS_PER_S
from gateway.control import clock, keysfile
from gateway.control.observed import Observed
from gateway.control.peers import Peer
from gateway.control.sessions import Live
from gateway.control.wgsocket import handshake_unix_ns
from gateway.core.session import Session
from gateway.core.states import State
from gateway.dataplane.engine import Engine
from gateway.ops.stats.text import Text, escaped

# Sessions or peers per turn of the loop: less than 1 µs each, 5 the first time.
_BATCH: Final = 400


class Series(Protocol):
    """Families with a series for each of something."""

    async def write(self, text: Text, seen: Observed) -> None:
        """All of them."""


# --- sessions ---------------------------------------------------------------------------------------------------------


def _state(who: bytes, state: State) -> bytes:
    return b'jvpn_session_state%b,state="%b"} 1\n' % (who, state.name.encode())


def _bytes(who: bytes, traffic: tuple[int, int, int]) -> bytes:
    line = b'jvpn_session_bytes_total%b,direction="%b"} %d\n'
    return line * 2 % (who, b"in", traffic[0], who, b"out", traffic[1])


def _rtt(who: bytes, measured: tuple[int, int] | None) -> bytes:
    return b"jvpn_session_rtt_seconds%b} %a\n" % (who, measured[0] / 1e6) if measured else b""


def _loss(who: bytes, measured: tuple[int, int] | None) -> bytes:
    return b"jvpn_session_loss_ratio%b} %a\n" % (who, measured[1] / 1e6) if measured else b""


class _Family(NamedTuple):
    """One of the families; ``lines``: those of a session by its labels so far and its value."""

    name: str
    kind: str
    tells: str
    lines: Callable[[bytes, Any], bytes]


_FAMILIES: Final = (
    _Family("jvpn_session_state", "gauge", "1 for the state a session is in.", _state),
    _Family("jvpn_session_bytes_total", "counter", "Outer bytes of a session's peer.", _bytes),
    _Family("jvpn_session_rtt_seconds", "gauge", "Round trip of the bound path.", _rtt),
    _Family("jvpn_session_loss_ratio", "gauge", "Loss of the bound path.", _loss),
)


class _Session:
    """What is kept of one session: by family its lines and the value that stands there."""

    __slots__ = ("lines", "values", "who")

    def __init__(self, live: Live) -> None:
        core = live.core
        self.who = f'{{session="{core.session_id.hex()}",peer="{escaped(core.peer)}"'.encode()
        self.values: list[Any] = [_Session] * len(_FAMILIES)  # no family's value: nothing is written yet
        self.lines = [b""] * len(_FAMILIES)

    def renew(self, family: int, value: Any) -> None:
        self.values[family], self.lines[family] = value, _FAMILIES[family].lines(self.who, value)


class _Batch:
    """Neighbours in the order of sessions: by family the lines of all of them, and the values that stand there."""

    def __init__(self) -> None:
        self._lives: list[Live] = []
        self._rows: list[_Session] = []
        self._values: list[list[Any]] = [[]] * len(_FAMILIES)
        self._text = [b""] * len(_FAMILIES)

    def renew(self, lives: list[Live], known: dict[Live, _Session], engine: Engine) -> list[bytes]:
        """Its text by family; ``known``: the rows of all sessions, since they change their batch when one ends."""
        if lives != self._lives:
            self._lives, self._rows = lives, [known.get(live) or _new(live, known) for live in lives]
            self._values = [[]] * len(_FAMILIES)
        measured = [_measured(live.core) for live in lives]
        traffic = [engine.traffic(live.peer.slot) for live in lives]
        states = [live.core.state for live in lives]
        found: tuple[list[Any], ...] = (states, traffic, measured, measured)
        for family, values in enumerate(found):
            if values != self._values[family]:
                self._renew_family(family, values)
        return self._text.copy()

    def _renew_family(self, family: int, values: list[Any]) -> None:
        for row, value in zip(self._rows, values, strict=True):
            if row.values[family] != value:
                row.renew(family, value)
        self._values[family] = values
        self._text[family] = b"".join([row.lines[family] for row in self._rows])


def _new(live: Live, known: dict[Live, _Session]) -> _Session:
    row = known[live] = _Session(live)
    return row


def _measured(core: Session) -> tuple[int, int] | None:
    """Round trip and loss of the bound path, where there is a measurement; a stock session's is never measured."""
    active = None if core.stock else core.active
    return (active.srtt_us, active.loss_ppm) if active is not None and active.srtt_us else None


class SessionSeries:
    """The state of every session, its bytes, and its path where that is measured."""

    def __init__(self) -> None:
        self._rows: dict[Live, _Session] = {}
        self._batches: list[_Batch] = []

    async def write(self, text: Text, seen: Observed) -> None:
        """All living sessions."""
        lives, written = list(seen.sessions), []
        for number, start in enumerate(range(0, len(lives), _BATCH)):
            while len(self._batches) <= number:  # another scrape may have forgotten some meanwhile
                self._batches.append(_Batch())
            living = [live for live in lives[start : start + _BATCH] if not live.ended]
            written.append(self._batches[number].renew(living, self._rows, seen.tunnel.engine))
            await asyncio.sleep(0)
        self._forget(lives)
        for family, (name, kind, tells, _) in enumerate(_FAMILIES):
            text.family(name, kind, tells)
            text.block(parts[family] for parts in written)

    def _forget(self, lives: list[Live]) -> None:
        """What is kept of sessions that are gone."""
        del self._batches[-(-len(lives) // _BATCH) :]
        if len(self._rows) > len(lives):
            self._rows = {live: row for live in lives if (row := self._rows.get(live)) is not None}


# --- peers, as WireGuard's exporter names them ------------------------------------------------------------------------


class _Peer:
    """The lines of one peer and the values that stand in them."""

    __slots__ = ("config", "heard", "received", "sent", "sent_line", "shaken_line", "shaken_ns", "who")

    def __init__(self, interface: str, peer: Peer) -> None:
        config = self.config = peer.config
        key, allowed = keysfile.encode_key(config.public_key), ",".join(map(str, config.allowed_ips))
        self.who = (
            f'{{interface="{escaped(interface)}",public_key="{key}",allowed_ips="{allowed}",'
            f'friendly_name="{escaped(config.name)}"}}'
        )
        self.heard = self.sent = self.shaken_ns = -1
        self.sent_line = self.received = self.shaken_line = ""

    def renew(self, heard: int, sent: int, shaken_ns: int) -> None:
        if heard != self.heard:
            self.heard, self.received = heard, f"wireguard_received_bytes_total{self.who} {heard}"
        if sent != self.sent:
            self.sent, self.sent_line = sent, f"wireguard_sent_bytes_total{self.who} {sent}"
        if shaken_ns != self.shaken_ns:
            self.shaken_ns = shaken_ns
            unix_s = handshake_unix_ns(shaken_ns, clock.now_ns(), clock.unix_ns()) // NS_PER_S
            self.shaken_line = f"wireguard_latest_handshake_seconds{self.who} {unix_s}"


class WireguardSeries:
    """Every configured peer under the names of prometheus_wireguard_exporter."""

    def __init__(self) -> None:
        self._rows: dict[Peer, _Peer] = {}

    async def write(self, text: Text, seen: Observed) -> None:
        """All peers, those that never came too: dashboards count them."""
        before, self._rows = self._rows, {}
        written, peers = self._rows, seen.tunnel.peers
        known = list(peers)
        for start in range(0, len(known), _BATCH):
            for peer in known[start : start + _BATCH]:
                if peers.by_slot(peer.slot) is peer:
                    row = written[peer] = _row_of(before.get(peer), seen.interface, peer)
                    row.renew(*seen.tunnel.engine.traffic(peer.slot))
            await asyncio.sleep(0)
        rows = written.values()
        tells = "Outer bytes to a peer.", "Outer bytes from a peer."
        _family(text, "wireguard_sent_bytes_total", "counter", tells[0], (row.sent_line for row in rows))
        _family(text, "wireguard_received_bytes_total", "counter", tells[1], (row.received for row in rows))
        said = "Unix time of a peer's last handshake; 0: never."
        _family(text, "wireguard_latest_handshake_seconds", "gauge", said, (row.shaken_line for row in rows))


def _row_of(kept: _Peer | None, interface: str, peer: Peer) -> _Peer:
    """The row that is kept, unless the peer's configuration is another one."""
    return kept if kept is not None and kept.config is peer.config else _Peer(interface, peer)


def _family(text: Text, name: str, kind: str, tells: str, samples: Iterable[str]) -> None:
    text.family(name, kind, tells)
    text.lines(samples)
