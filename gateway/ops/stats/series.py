# SPDX-License-Identifier: Apache-2.0
"""Series of single sessions and peers in /metrics, written only where they were asked for.

Rule: one pass over the sessions or the peers, which gives the loop back every few hundred of them; who left meanwhile
is left out. The families of WireGuard carry the names and labels that dashboards for prometheus_wireguard_exporter ask
for: public keys are labels there.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.constants import NS_PER_S
from gateway.control import clock, keysfile
from gateway.control.observed import Observed
from gateway.control.peers import Peer
from gateway.control.sessions import Live
from gateway.control.wgsocket import handshake_unix_ns
from gateway.ops.stats.text import Text, escaped

# Sessions or peers per turn of the loop: 5 µs each.
_BATCH: Final = 200

Lines = dict[str, list[str]]
Families = tuple[tuple[str, str, str], ...]

_SESSION: Final[Families] = (
    ("jvpn_session_state", "gauge", "1 for the state a session is in."),
    ("jvpn_session_bytes_total", "counter", "Outer bytes of a session's peer."),
    ("jvpn_session_rtt_seconds", "gauge", "Round trip of the bound path."),
    ("jvpn_session_loss_ratio", "gauge", "Loss of the bound path."),
)
_WIREGUARD: Final[Families] = (
    ("wireguard_sent_bytes_total", "counter", "Outer bytes to a peer."),
    ("wireguard_received_bytes_total", "counter", "Outer bytes from a peer."),
    ("wireguard_latest_handshake_seconds", "gauge", "Unix time of a peer's last handshake; 0: never."),
)


async def per_session(text: Text, seen: Observed) -> None:
    """The state of every session, its bytes, and its path where it is measured: a stock session's never is."""
    lines: Lines = {name: [] for name, _, _ in _SESSION}
    lives = list(seen.sessions)
    for start in range(0, len(lives), _BATCH):
        for live in lives[start : start + _BATCH]:
            if not live.ended:
                _one_session(lines, seen, live)
        await asyncio.sleep(0)
    _write(text, _SESSION, lines)


def _one_session(lines: Lines, seen: Observed, live: Live) -> None:
    s, stats = live.core, seen.tunnel.engine.stats(live.slot)
    who = f'{{session="{s.session_id.hex()}",peer="{escaped(s.peer)}"'
    lines["jvpn_session_state"].append(f'jvpn_session_state{who},state="{s.state.name}"}} 1')
    for way, counted in (("in", stats["rx_bytes"]), ("out", stats["tx_bytes"])):
        lines["jvpn_session_bytes_total"].append(
            f'jvpn_session_bytes_total{who},direction="{way}"}} {counted}'
        )
    active = s.active
    if active is not None and active.srtt_us:
        lines["jvpn_session_rtt_seconds"].append(f"jvpn_session_rtt_seconds{who}}} {active.srtt_us / 1e6}")
        lines["jvpn_session_loss_ratio"].append(f"jvpn_session_loss_ratio{who}}} {active.loss_ppm / 1e6}")


async def wireguard(text: Text, seen: Observed) -> None:
    """Every configured peer under the names of prometheus_wireguard_exporter."""
    lines: Lines = {name: [] for name, _, _ in _WIREGUARD}
    peers = list(seen.tunnel.peers)
    for start in range(0, len(peers), _BATCH):
        now_ns, unix_ns = clock.now_ns(), clock.unix_ns()
        for peer in peers[start : start + _BATCH]:
            if seen.tunnel.peers.by_slot(peer.slot) is peer:
                _one_peer(lines, seen, peer, now_ns, unix_ns)
        await asyncio.sleep(0)
    _write(text, _WIREGUARD, lines)


def _one_peer(lines: Lines, seen: Observed, peer: Peer, now_ns: int, unix_ns: int) -> None:
    stats = seen.tunnel.engine.stats(peer.slot)
    who = _wireguard_labels(seen.interface, peer)
    shaken_ns = handshake_unix_ns(stats["latest_handshake_ns"], now_ns, unix_ns)
    for (name, _, _), value in zip(
        _WIREGUARD, (stats["tx_bytes"], stats["rx_bytes"], shaken_ns // NS_PER_S), strict=True
    ):
        lines[name].append(f"{name}{who} {value}")


def _wireguard_labels(interface: str, peer: Peer) -> str:
    config = peer.config
    key, allowed = keysfile.encode_key(config.public_key), ",".join(map(str, config.allowed_ips))
    return (
        f'{{interface="{escaped(interface)}",public_key="{key}",allowed_ips="{allowed}",'
        f'friendly_name="{escaped(config.name)}"}}'
    )


def _write(text: Text, families: Families, lines: Lines) -> None:
    for name, kind, tells in families:
        text.family(name, kind, tells)
        text.lines(lines[name])
