# SPDX-License-Identifier: Apache-2.0
"""Series of single sessions and peers in /metrics, written only where they were asked for.

Rule 1: one pass over the sessions or the peers, which gives the loop back every few hundred of them; who left meanwhile
is left out.
Rule 2: a line is written anew when its value has changed, and kept until then: most sessions are idle, and names,
ids and labels never change. What is kept goes with its session.

The families of WireGuard carry the names and labels that dashboards for prometheus_wireguard_exporter ask for: public
keys are labels there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from gateway.constants import NS_PER_S
from gateway.control import clock, keysfile
from gateway.control.observed import Observed
from gateway.control.peers import Peer
from gateway.control.sessions import Live
from gateway.control.wgsocket import handshake_unix_ns
from gateway.core.states import State
from gateway.dataplane.engine import Engine
from gateway.ops.stats.text import Text, escaped

# Sessions or peers per turn of the loop: 1 µs each, 5 the first time.
_BATCH: Final = 400


class Series(Protocol):
    """Families with a series for each of something."""

    async def write(self, text: Text, seen: Observed) -> None:
        """All of them."""


# --- sessions ---------------------------------------------------------------------------------------------------------


class _Session:
    """The lines of one session and the values that stand in them."""

    __slots__ = ("bytes", "heard", "loss", "measured", "paths", "sent", "state", "state_line", "who")

    def __init__(self, live: Live) -> None:
        core = live.core
        self.who = f'{{session="{core.session_id.hex()}",peer="{escaped(core.peer)}"'
        self.state: State | None = None
        self.heard = self.sent = self.measured = self.loss = -1
        self.state_line = self.bytes = ""
        self.paths = ("", "")

    def renew_state(self, state: State) -> None:
        self.state = state
        self.state_line = f'jvpn_session_state{self.who},state="{state.name}"}} 1'

    def renew_bytes(self, heard: int, sent: int) -> None:
        self.heard, self.sent = heard, sent
        head = f"jvpn_session_bytes_total{self.who}"
        self.bytes = f'{head},direction="in"}} {heard}\n{head},direction="out"}} {sent}'

    def renew_path(self, srtt_us: int, loss_ppm: int) -> None:
        self.measured, self.loss = srtt_us, loss_ppm
        self.paths = (
            f"jvpn_session_rtt_seconds{self.who}}} {srtt_us / 1e6}",
            f"jvpn_session_loss_ratio{self.who}}} {loss_ppm / 1e6}",
        )


class _SessionLines:
    """The four families of one scrape."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.bytes: list[str] = []
        self.rtts: list[str] = []
        self.losses: list[str] = []

    def add(self, row: _Session, live: Live, engine: Engine) -> None:
        core = live.core
        if core.state is not row.state:
            row.renew_state(core.state)
        self.states.append(row.state_line)
        heard, sent, _ = engine.traffic(live.peer.slot)
        if heard != row.heard or sent != row.sent:
            row.renew_bytes(heard, sent)
        self.bytes.append(row.bytes)
        active = None if core.stock else core.active
        if active is not None and active.srtt_us:
            if active.srtt_us != row.measured or active.loss_ppm != row.loss:
                row.renew_path(active.srtt_us, active.loss_ppm)
            self.rtts.append(row.paths[0])
            self.losses.append(row.paths[1])


class SessionSeries:
    """The state of every session, its bytes, and its path where that is measured: a stock session's never is."""

    def __init__(self) -> None:
        self._rows: dict[Live, _Session] = {}

    async def write(self, text: Text, seen: Observed) -> None:
        """All living sessions."""
        lines, engine = _SessionLines(), seen.tunnel.engine
        before, self._rows = self._rows, {}
        rows, lives = self._rows, list(seen.sessions)
        for start in range(0, len(lives), _BATCH):
            for live in lives[start : start + _BATCH]:
                if not live.ended:
                    row = rows[live] = before.get(live) or _Session(live)
                    lines.add(row, live, engine)
            await asyncio.sleep(0)
        tells = "1 for the state a session is in.", "Outer bytes of a session's peer."
        _family(text, "jvpn_session_state", "gauge", tells[0], lines.states)
        _family(text, "jvpn_session_bytes_total", "counter", tells[1], lines.bytes)
        _family(text, "jvpn_session_rtt_seconds", "gauge", "Round trip of the bound path.", lines.rtts)
        _family(text, "jvpn_session_loss_ratio", "gauge", "Loss of the bound path.", lines.losses)


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
