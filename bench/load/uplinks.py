# SPDX-License-Identifier: Apache-2.0
"""Where the clients are: two uplinks, a UDP socket per uplink and port, and the sender's address chosen per packet.

Rule: a path is a source address on a shared socket, so 100,000 clients with two paths each need a handful of
descriptors. What is kept of a client here is two bytes per path; the rest is computed when it is asked for.

A client behind an address translator keeps its socket and does not hear what is sent to its mapping of old. Here the
socket is another one, so what arrives at the old one is not shown to the client; inner packets alone still get through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.load.population import GATEWAYS, MOST, UPLINKS
from gateway.control.transports import SocketTable
from gateway.core.states import Tier
from gateway.dataplane.engine import Endpoint
from gateway.net.candidates import Candidate
from gateway.net.udp import open_udp

# A client whose address has changed is this far up in the uplink's range; the lower half has everybody's first one.
MOVED: Final = MOST // 2


class Line:
    """One path of one client, as the client's keeper sees its own sockets. Made when asked for."""

    __slots__ = ("_number", "_uplinks", "candidate", "path_id")
    up = True  # what fails here fails on the way

    def __init__(self, uplinks: Uplinks, number: int, uplink: int) -> None:
        self._uplinks, self._number = uplinks, number
        self.path_id = uplink + 1
        self.candidate = uplinks.candidates[uplink]

    @property
    def to(self) -> Endpoint:
        """Where it sends to, and from where."""
        return self._uplinks.endpoint(self._number, self.path_id - 1)


class Uplinks:
    """The sockets of both uplinks, and by which of them each client goes now."""

    def __init__(self, table: SocketTable, clients: int, ports: int, gateway_port: int) -> None:
        self._sockets = [[open_udp("0.0.0.0", 0) for _ in range(ports)] for _ in UPLINKS]
        self._ids = [[table.add_port((sock,)) for sock in row] for row in self._sockets]
        self._uplink_of = {socket_id: uplink for uplink, row in enumerate(self._ids) for socket_id in row}
        self._nth_port = [bytearray(clients) for _ in UPLINKS]
        self._moved = [bytearray(clients) for _ in UPLINKS]
        # The core's name of a path is the same for all: a hundred thousand texts would be memory for nothing.
        self.candidates = [
            Candidate(f"up{n}", 0, "", (str(host), gateway_port), "udp", Tier.PRIMARY, 0, f"udp:{host}")
            for n, host in enumerate(GATEWAYS)
        ]
        self._toward = {
            socket_id: Endpoint.of(str(GATEWAYS[uplink]), gateway_port, socket_id)
            for socket_id, uplink in self._uplink_of.items()
        }
        self._first = [int(network.network_address) for network in UPLINKS]

    def endpoint(self, number: int, uplink: int) -> Endpoint:
        """Where client `number` sends on that uplink: from which address, by which socket."""
        socket_id = self._ids[uplink][self._nth_port[uplink][number]]
        place = self._first[uplink] + self._place(number, uplink)
        return self._toward[socket_id].sent_from(place.to_bytes(4, "big"))

    def uplink_of(self, socket_id: int) -> int | None:
        """The uplink of one of the engine's sockets."""
        return self._uplink_of.get(socket_id)

    def number_at(self, here: Endpoint) -> int | None:
        """The client that lives where a message came in. None: what its translator mapped there it maps no more."""
        uplink = self.uplink_of(here.socket_id)
        if uplink is None or not here.local:
            return None
        place = int.from_bytes(here.local, "big") - self._first[uplink]
        number = place - MOVED if place >= MOVED else place
        if not 0 <= number < len(self._moved[uplink]):
            return None
        current = (self._ids[uplink][self._nth_port[uplink][number]], self._place(number, uplink))
        return number if (here.socket_id, place) == current else None

    def _place(self, number: int, uplink: int) -> int:
        return number + (MOVED if self._moved[uplink][number] else 0)

    def rebind(self, number: int, uplink: int, *, address: bool) -> None:
        """An address translator has given this path another port, and if so another address, to and fro.

        ValueError where two clients would meet.
        """
        ports = self._nth_port[uplink]
        if address and len(ports) > MOVED:
            raise ValueError(f"addresses change among up to {MOVED:,} clients")
        ports[number] = (ports[number] + 1) % len(self._ids[uplink])
        self._moved[uplink][number] ^= address

    def close(self) -> None:
        """Close the sockets; the engine has let go of them."""
        for row in self._sockets:
            for sock in row:
                sock.close()


class Lines:
    """All paths of one client: what the keeper asks of a client's transports. Keeps nothing."""

    __slots__ = ("_number", "_uplinks")

    def __init__(self, uplinks: Uplinks, number: int) -> None:
        self._uplinks, self._number = uplinks, number

    def paths(self) -> Sequence[Line]:
        return [Line(self._uplinks, self._number, uplink) for uplink in range(len(UPLINKS))]

    def by_id(self, path_id: int) -> Line | None:
        known = 1 <= path_id <= len(UPLINKS)
        return Line(self._uplinks, self._number, path_id - 1) if known else None

    def by_socket(self, socket_id: int) -> Line | None:
        uplink = self._uplinks.uplink_of(socket_id)
        return Line(self._uplinks, self._number, uplink) if uplink is not None else None
