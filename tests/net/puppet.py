# SPDX-License-Identifier: Apache-2.0
"""A jump client driven by hand: it has a peer's keys, makes one handshake, and sends exactly the frames it is told to.

Rule: it is built from the wire formats alone (`gateway.noise`, `gateway.frames`, `gateway.suites`), not from our
client, so it can do what our client never would: old attempts, wrong epochs, the same request from two sockets.
Its sockets live in a namespace of the laboratory; nothing answers by itself but CHALLENGE when asked to (`pump`).
"""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Final, Self, TypeVar

from gateway import crypto, suites, wire
from gateway import frames as fr
from gateway.errors import AuthError
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Identity, Initiator, PeerKeys, TransportKeys
from gateway.noise.timestamp import tai64n
from tests.net.lab import LabError, Namespace
from tests.net.wg import Keys

AnyFrame = TypeVar("AnyFrame", bound=fr.Frame)
ANSWER_S: Final = 3.0
RECEIVED_BYTES: Final = 65_536
SUITES: Final = (int(suites.Suite.CHACHA20_POLY1305),)


class Puppet:
    """``ports`` sockets in one namespace towards one gateway address."""

    def __init__(
        self,
        namespace: Namespace,
        keys: Keys,
        gateway_public: str,
        gateway: tuple[str, int],
        sockets: int = 1,
    ) -> None:
        self._identity = Identity(base64.b64decode(keys.private))
        self._peer = PeerKeys(self._identity, base64.b64decode(gateway_public))
        self._gateway = gateway
        self.sockets = [namespace.open_socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(sockets)]
        for sock in self.sockets:
            sock.connect(gateway)
        self._keys: TransportKeys | None = None
        self._sent = {4: 0, 5: 0}
        self.instance_id = os.urandom(16)
        self.session_id = fr.NO_SESSION
        self.inbox: list[tuple[int, fr.Frame]] = []
        self.refused = 0

    @property
    def keys(self) -> TransportKeys:
        """Of the last handshake."""
        if self._keys is None:
            raise LabError("no handshake yet")
        return self._keys

    def handshake(self, socket_no: int = 0) -> TransportKeys:
        """One WireGuard handshake; LabError without an answer."""
        initiator = Initiator.start(
            self._peer,
            local_index=int.from_bytes(os.urandom(4), "little"),
            timestamp=tai64n(time.time_ns()),
            ephemeral_private=os.urandom(32),
        )
        sock = self.sockets[socket_no]
        sock.send(add_macs(initiator.packet, self._peer.mac1_key, None))
        deadline_s = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline_s:
            datagram = self._receive(sock, deadline_s - time.monotonic())
            if datagram and wire.message_type(datagram) == wire.MSG_RESPONSE:
                self._keys = initiator.finish(datagram)
                self._sent = {4: 0, 5: 0}
                return self._keys
        raise LabError("the gateway did not answer the handshake")

    def greet(
        self, session_id: bytes = fr.NO_SESSION, epoch: int = 0, path_id: int = 1
    ) -> fr.Welcome | fr.Refuse:
        """HELLO, and what comes back."""
        hello = fr.Hello(
            capabilities=0,
            instance_id=self.instance_id,
            session_id=session_id,
            binding_epoch=epoch,
            path_id=path_id,
            suites=SUITES,
            liveness_interval_ms=300,
            liveness_misses=3,
        )
        self.send_data(fr.encode((hello,)))
        answer = self.wait(fr.Welcome, fr.Refuse)
        if isinstance(answer, fr.Welcome):
            self.session_id = answer.session_id
        return answer

    def attach(self) -> fr.Welcome:
        """Handshake and HELLO; LabError when it is refused."""
        self.handshake()
        answer = self.greet()
        if not isinstance(answer, fr.Welcome):
            raise LabError(f"refused: {answer}")
        return answer

    def request(
        self, attempt_id: int, epoch: int, path_id: int, socket_no: int = 0, forced: bool = True
    ) -> None:
        """REATTACH_REQUEST, from a socket of choice."""
        self.send(
            fr.ReattachRequest(
                attempt_id=attempt_id, binding_epoch=epoch, path_id=path_id, reason=23, forced=forced
            ),
            path_id=path_id,
            socket_no=socket_no,
        )

    def prove(self, path_id: int, socket_no: int) -> None:
        """Make a socket a validated path: a probe from there, and the answer to the challenge that it earns."""
        probe = fr.Probe(
            path_id=path_id,
            seq=1,
            tx_time_ns=time.monotonic_ns(),
            tx_packets=1,
            tx_bytes=100,
            binding_epoch=1,
            bound_path_id=1,
            pmtu=False,
        )
        self.send(probe, path_id=path_id, socket_no=socket_no)
        challenge = self.wait(fr.Challenge)
        self.send(fr.Response(path_id=path_id, nonce=challenge.nonce), path_id=path_id, socket_no=socket_no)

    # --- sealing --------------------------------------------------------------------------------------------------

    def send(
        self, *frames: fr.Frame, path_id: int = 1, socket_no: int = 0, counter: int | None = None
    ) -> bytes:
        """Control frames in one type 5 message; the datagram. ``counter``: instead of the next one."""
        number = self._sent[5] if counter is None else counter
        self._sent[5] = max(self._sent[5], number + 1)
        head = suites.header(suites.Suite.CONTROL, path_id, 0, self.keys.remote_index, number)
        key = suites.traffic_key(self.keys.send_key, suites.Suite.CONTROL)
        datagram = head + crypto.chacha20poly1305_encrypt(key, number, fr.encode(frames), head)
        self.sockets[socket_no].send(datagram)
        return datagram

    def send_data(self, plaintext: bytes, socket_no: int = 0) -> bytes:
        """One type 4 message (an inner packet, a keepalive, or a HELLO); the datagram."""
        number = self._sent[4]
        self._sent[4] += 1
        head = wire.TRANSPORT_HEAD + wire.index_bytes(self.keys.remote_index) + number.to_bytes(8, "little")
        padded = plaintext + bytes(-len(plaintext) % 16)
        datagram = head + crypto.chacha20poly1305_encrypt(self.keys.send_key, number, padded, b"")
        self.sockets[socket_no].send(datagram)
        return datagram

    # --- what comes back ------------------------------------------------------------------------------------------

    def pump(self, seconds: float = 0.0) -> None:
        """Read what has arrived (waiting up to ``seconds`` for the first) into ``inbox`` as (socket, frame)."""
        ready, _, _ = select.select(self.sockets, [], [], seconds)
        while ready:
            for sock in ready:
                self._open(self.sockets.index(sock), sock.recv(RECEIVED_BYTES))
            ready, _, _ = select.select(self.sockets, [], [], 0)

    def wait(self, *kinds: type[AnyFrame], timeout_s: float = ANSWER_S) -> AnyFrame:
        """The next frame of these kinds, taken out of the inbox; LabError when none comes."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            for entry in self.inbox:
                if isinstance(entry[1], kinds):
                    self.inbox.remove(entry)
                    return entry[1]
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise LabError(f"none of {kinds} in {timeout_s} s, but {self.inbox}")
            self.pump(left_s)

    def frames(self, *kinds: type[AnyFrame]) -> Sequence[AnyFrame]:
        """Everything of these kinds that has come and was not taken."""
        self.pump()
        return [frame for _, frame in self.inbox if isinstance(frame, kinds)]

    def close(self) -> None:
        """Close its sockets."""
        for sock in self.sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _receive(sock: socket.socket, timeout_s: float) -> bytes:
        ready, _, _ = select.select([sock], [], [], max(0.0, timeout_s))
        return sock.recv(RECEIVED_BYTES) if ready else b""

    def _open(self, socket_no: int, datagram: bytes) -> None:
        plaintext = self._plaintext(datagram)
        if plaintext and plaintext[0] == 0x01:
            found = fr.parse(plaintext, fr.Direction.TO_CLIENT)
            self.inbox += [(socket_no, frame) for frame in found]

    def _plaintext(self, datagram: bytes) -> bytes:
        head = suites.read_header(datagram)
        try:
            if head is not None:
                key = suites.traffic_key(self.keys.recv_key, suites.Suite.CONTROL)
                sealed, ad = datagram[suites.HEADER_BYTES :], datagram[: suites.HEADER_BYTES]
                return crypto.chacha20poly1305_decrypt(key, head.counter, sealed, ad)
            if datagram[:4] == wire.TRANSPORT_HEAD:
                counter = int.from_bytes(datagram[8:16], "little")
                return crypto.chacha20poly1305_decrypt(self.keys.recv_key, counter, datagram[16:], b"")
        except AuthError:
            self.refused += 1
        return b""
