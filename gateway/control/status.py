# SPDX-License-Identifier: Apache-2.0
"""The status document of a running tunnel, `jvpn.status/1`: what the control socket answers and later HTTP."""

from __future__ import annotations

from typing import Any, Final

from gateway.constants import NS_PER_S
from gateway.control import clock, keysfile
from gateway.control.peers import Peer
from gateway.control.tunnel import Tunnel
from gateway.crypto import sodium_features
from gateway.suites import TRAITS, Suite

SCHEMA: Final = "jvpn.status/1"


def status_document(tunnel: Tunnel, *, role: str, interface: str, started_ns: int) -> dict[str, Any]:
    """Everything an operator looks at first. Ages in seconds, sizes in bytes."""
    now_ns = clock.now_ns()
    sodium = sodium_features()
    return {
        "schema": SCHEMA,
        "role": role,
        "interface": interface,
        "public_key": keysfile.encode_key(tunnel.identity.public),
        "listen": tunnel.local_addresses(),
        "uptime_s": (now_ns - started_ns) / NS_PER_S,
        "peers": [_peer(tunnel, peer, now_ns) for peer in tunnel.peers],
        "counters": counters(tunnel),
        "libsodium": sodium._asdict(),
        "offloads": tunnel.offloads(),
        "workers": _workers(tunnel),
    }


def _workers(tunnel: Tunnel) -> dict[str, Any]:
    """Who moves the packets; ``each`` has one entry per native worker, in their order."""
    return {
        "count": tunnel.workers.count,
        "native": tunnel.workers.native,
        "each": tunnel.worker_stats(),
    }


def counters(tunnel: Tunnel) -> dict[str, int]:
    """Counters of the data plane, of the gate before handshakes, and of the handshakes themselves."""
    gate = {f"admission_{name}": count for name, count in tunnel.admission.counters.items()}
    handshakes = {f"handshake_{name}": count for name, count in sorted(tunnel.exchange.counters.items())}
    return {**tunnel.engine.counters(), **gate, **handshakes}


def _peer(tunnel: Tunnel, peer: Peer, now_ns: int) -> dict[str, Any]:
    stats = tunnel.engine.stats(peer.slot)
    endpoint = tunnel.engine.endpoint(peer.slot)
    latest_ns = stats["latest_handshake_ns"]
    return {
        "name": peer.config.name,
        "public_key": keysfile.encode_key(peer.config.public_key),
        "endpoint": str(endpoint) if endpoint else "",
        "allowed_ips": [str(network) for network in peer.config.allowed_ips],
        "latest_handshake_s": (now_ns - latest_ns) / NS_PER_S if latest_ns else None,
        "rx_bytes": stats["rx_bytes"],
        "tx_bytes": stats["tx_bytes"],
        "rx_packets": stats["rx_packets"],
        "tx_packets": stats["tx_packets"],
        "suite": TRAITS[Suite(stats["suite"])].name if stats["suite"] else None,
        "keepalive_s": peer.config.keepalive_s,
        "state": _state(tunnel, peer, latest_ns),
    }


def _state(tunnel: Tunnel, peer: Peer, latest_ns: int) -> str:
    if peer.handshake is not None and peer.handshake.pending_index is not None and peer.wanted:
        return "handshaking"
    if not latest_ns:
        return "never"
    return "attached" if tunnel.has_key(peer) else "idle"
