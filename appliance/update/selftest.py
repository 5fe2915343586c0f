# SPDX-License-Identifier: Apache-2.0
"""Whether the gateway on this machine passes traffic: a peer of our own, a handshake, a packet there and back.

    us ── UDP over loopback ──> gateway ── TUN device ──> this machine's kernel, which answers the echo
       <── UDP ── sealed under the key of this handshake ── TUN device <──

It goes through everything that an update could break: control socket, handshake, both directions of the data plane, the
device, its addresses and routes. Loopback stands for the network: a box whose uplink is down is no failed update.
No namespace and no second daemon: what they would add is our client's code, which is not what serves here.
The peer exists for the test alone, under a key that nobody else has, with an address of the pool.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import psutil

from appliance.update import echo
from gateway import crypto, wire
from gateway.control import ctlclient, keysfile
from gateway.errors import AuthError, HostError, JumpError
from gateway.noise.cookie import CookieJar, add_macs
from gateway.noise.handshake import Identity, Initiator, PeerKeys, TransportKeys
from gateway.noise.timestamp import TimestampSource

PEER: Final = "appliance-selftest"
# Loopback answers in milliseconds; an emulated processor under load in seconds.
ANSWER_TIMEOUT_S: Final = 5.0
TRIES: Final = 3
_DATAGRAM_MAX_BYTES: Final = 2048
_PAYLOAD: Final = b"jumping-vpn self-test"
_PADDED_TO: Final = 16


@dataclass(frozen=True, slots=True)
class World:
    """What the test takes from outside."""

    now_ns: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    timeout_s: float = ANSWER_TIMEOUT_S


def passes_traffic(runtime: Path, world: World) -> str:
    """A sentence for the log. ``JumpError`` says what does not work."""
    control = _control_socket(runtime)
    status = ctlclient.call(control, "status")
    _require_live(control.with_suffix(".http"), world.timeout_s)
    private = crypto.clamp(world.random_bytes(crypto.KEY_BYTES))
    keys = PeerKeys(Identity(private), keysfile.decode_public_key(status["public_key"]))
    with _peer(control, keys.identity.public) as prefixes:
        source, destination = _ends(prefixes, str(status["interface"]))
        remote = _loopback(status["listen"])
        family = socket.AF_INET if remote[0].count(":") == 0 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            link.settimeout(world.timeout_s)
            link.connect(remote)
            transport = _handshake(link, keys, world)
            _echo(link, transport, source, destination)
    return f"a packet went through {status['interface']} and came back ({destination})"


def _control_socket(runtime: Path) -> Path:
    found = sorted(runtime.glob("*.sock"))
    if not found:
        raise HostError(f"no gateway runs: there is no control socket in {runtime}")
    return found[0]


def _require_live(path: Path, timeout_s: float) -> None:
    """GET /livez, which fails when the data plane stands still. A gateway may have no stats endpoint."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout_s)
        try:
            link.connect(str(path))
            link.sendall(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
            line = link.recv(_DATAGRAM_MAX_BYTES).split(b"\r\n", 1)[0]
        except OSError as error:
            raise HostError(f"/livez does not answer: {error}") from None
    if b" 200 " not in line:
        raise HostError(f"/livez says {line.decode('ascii', 'replace')}")


@contextlib.contextmanager
def _peer(control: Path, public_key: bytes) -> Iterator[Sequence[str]]:
    """The peer's addresses, while it exists. One that a power cut left behind goes first."""
    with contextlib.suppress(JumpError):
        ctlclient.call(control, "peer.remove", {"name": PEER})
    request = {"name": PEER, "public_key": keysfile.encode_key(public_key), "protocol": "wireguard"}
    document = ctlclient.call(control, "peer.add", request)
    try:
        yield document["peer"]["allowed_ips"]
    finally:
        ctlclient.call(control, "peer.remove", {"name": PEER})


def _ends(prefixes: Sequence[str], interface: str) -> tuple[echo.Address, echo.Address]:
    """Our address inside the tunnel and the gateway's, of the same version."""
    theirs = [
        ip_address(address.address.partition("%")[0])
        for address in psutil.net_if_addrs().get(interface, ())
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    for prefix in prefixes:
        ours = ip_network(prefix).network_address
        for inner in theirs:
            if inner.version == ours.version and not inner.is_link_local:
                return ours, inner
    raise HostError(f"{interface} has no address that could answer")


def _loopback(listen: Sequence[str]) -> tuple[str, int]:
    """Where the gateway listens, seen from this machine; IPv4 first."""
    found = []
    for text in listen:
        host, _, port = text.rpartition(":")
        address = ip_address(host.strip("[]"))
        if address.is_unspecified:
            address = ip_address("127.0.0.1" if address.version == 4 else "::1")
        found.append((address.version, str(address), int(port)))
    if not found:
        raise HostError("the gateway listens nowhere")
    _, host, number = min(found)
    return host, number


def _handshake(link: socket.socket, keys: PeerKeys, world: World) -> TransportKeys:
    """A whole handshake; with a cookie when the gateway is under load and asks for one."""
    jar, stamps = CookieJar(keys.remote_public), TimestampSource()
    for _ in range(TRIES):
        initiator = Initiator.start(
            keys,
            local_index=int.from_bytes(world.random_bytes(4), "little"),
            timestamp=stamps.next(world.now_ns()),
            ephemeral_private=crypto.clamp(world.random_bytes(crypto.KEY_BYTES)),
        )
        message = add_macs(initiator.packet, keys.mac1_key, jar.current(world.now_ns()))
        jar.sent(message)
        with contextlib.suppress(TimeoutError, AuthError):
            link.send(message)
            answer = link.recv(_DATAGRAM_MAX_BYTES)
            if wire.message_type(answer) == wire.MSG_COOKIE_REPLY:
                jar.consume_reply(world.now_ns(), answer)
            else:
                return initiator.finish(answer)
    raise HostError("the gateway answers no handshake")


def _echo(link: socket.socket, keys: TransportKeys, source: echo.Address, destination: echo.Address) -> None:
    """An echo request through the tunnel until its reply comes; what else comes is passed over, so many times."""
    packet = echo.request(source, destination, _PAYLOAD)
    packet += bytes(-len(packet) % _PADDED_TO)
    for counter in range(TRIES):
        sealed = crypto.chacha20poly1305_encrypt(keys.send_key, counter, packet, b"")
        head = wire.TRANSPORT_HEAD + wire.index_bytes(keys.remote_index) + counter.to_bytes(8, "little")
        with contextlib.suppress(TimeoutError):
            link.send(head + sealed)
            for _ in range(TRIES):
                if echo.is_reply(
                    _opened(link.recv(_DATAGRAM_MAX_BYTES), keys), source, destination, _PAYLOAD
                ):
                    return
    raise HostError(
        f"the gateway completed a handshake, but no packet came back from {destination} through the tunnel"
    )


def _opened(datagram: bytes, keys: TransportKeys) -> bytes:
    """The packet in a transport message for us; nothing for any other."""
    ours = wire.TRANSPORT_HEAD + wire.index_bytes(keys.local_index)
    if len(datagram) < wire.TRANSPORT_HEADER_BYTES or datagram[:8] != ours:
        return b""
    counter = int.from_bytes(datagram[8:16], "little")
    try:
        return crypto.chacha20poly1305_decrypt(keys.recv_key, counter, datagram[16:], b"")
    except AuthError:
        return b""
