# SPDX-License-Identifier: Apache-2.0
"""N clients of one gateway on one tunnel, and what one of them can be told to do.

Rule: nothing is forced on a session. A client is started, restarted, stopped, told to renew its keys or given another
port by its address translator; what follows is its own core's decision, as it is in `jvpn connect`.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable
from hashlib import blake2s
from typing import Final

from bench.load.clients import Calls, Clients, CrowdKeeper, Stamps
from bench.load.population import BEYOND, Population
from bench.load.tally import Tally
from bench.load.uplinks import Uplinks
from gateway.constants import NS_PER_S
from gateway.control import clock
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.configmodel import Workers
from gateway.control.eager import Eager
from gateway.control.peers import Peer
from gateway.control.sessions import Live
from gateway.control.tunnel import Tunnel, TunnelLimits
from gateway.core import driver
from gateway.core.inputs import OperatorTerminate
from gateway.core.policy import Policy
from gateway.frames import INSTANCE_ID_BYTES
from gateway.net.tun import open_with

DEVICE: Final = "swarm0"
MTU_BYTES: Final = 1420
# Thousands of clients share a processor, and what that does to a round trip says nothing of a path: they leave one that
# is dead, and judge no other.
NO_QUALITY: Final = Policy(
    loss_enter_ppm=1_000_000, latency_enter_ns=60 * NS_PER_S, jitter_enter_ns=60 * NS_PER_S
)
# A client of thousands sends little: 256 bytes of window per keypair instead of 1,024.
WINDOW_BITS: Final = 2048
BY: Final = "swarm"


class Crowd:
    """All clients. `prepare` makes their keys, `start` opens device and sockets."""

    def __init__(
        self,
        population: Population,
        *,
        policy: Policy = NO_QUALITY,
        native: bool,
        ports: int,
        gateway_port: int,
    ) -> None:
        self._policy = policy
        self._population, self._ports, self._gateway_port = population, ports, gateway_port
        gateway = population.gateway
        # With "auto" a gateway too busy to answer four HELLOs would be taken for a stock one.
        self._config = PeerConfig("swarm", gateway.public, protocol="jump", roaming="never")
        self._runs = [0] * population.count
        self._present = bytearray(population.count)
        self.tally = Tally(clock.now_ns())
        self.tunnel = Tunnel(
            gateway,
            limits=TunnelLimits(population.count, 2 * population.count, window_bits=WINDOW_BITS),
            timestamps=Stamps(),
            keeper=self._keeper,
            peers=Clients,
            exchange=Calls,
            client=True,
            workers=Workers(native=native),
        )
        self.peers: Clients = self.tunnel.peers
        self.keeper: CrowdKeeper = self.tunnel.keeper
        self.tunnel.exchange.eager = Eager()  # as our own client does
        self.tunnel.exchange.admits = lambda peer: bool(self._present[self.peers.number_of(peer.slot)])
        self.tunnel.exchange.on_retry = self._try_other_uplink
        self.keeper.sessions.on_ended = self._ended
        # Told that a session has ended, by its client's number.
        self.on_ended: Callable[[int], None] = lambda number: None

    def _keeper(self, engine: object) -> CrowdKeeper:
        return CrowdKeeper(engine, self.tally, self._policy, secrets.token_bytes, self._instance_of)

    def _instance_of(self, slot: int) -> bytes:
        """Of the client's process: another one after each restart."""
        number = self.peers.number_of(slot)
        words = f"{self._population.seed} {number} {self._runs[number]}".encode()
        return blake2s(words, digest_size=INSTANCE_ID_BYTES).digest()

    # --- life -------------------------------------------------------------------------------------------------

    def prepare(self, most: int) -> int:
        """Make up to `most` further clients; how many there are. Their keys are theirs before anything is timed."""
        for number in range(len(self.peers), min(self._population.count, len(self.peers) + most)):
            peer = self.peers.enlist(self._config, self._population.identity(number))
            self.tunnel.engine.mute(peer.slot, True, clock.now_ns())
        return len(self.peers)

    def start(self) -> None:
        """Open the device and the sockets of both uplinks; packets move from now on."""
        tun = open_with(DEVICE, "full")
        for words in (
            ("link", "set", DEVICE, "mtu", str(MTU_BYTES), "txqueuelen", "5000", "up"),
            ("route", "replace", str(BEYOND), "dev", DEVICE),
        ):
            subprocess.run(["ip", *words], check=True)
        self.tunnel.attach((), tun, MTU_BYTES)
        self.uplinks = Uplinks(self.tunnel, self._population.count, self._ports, self._gateway_port)
        self.keeper.settle(self.uplinks, self.peers)
        self.tunnel.exchange.find = lambda here: self.peers.at(self.uplinks.number_at(here))
        self.tunnel.start()

    def stop(self) -> None:
        """Gone without a word, as a killed process is."""
        self.tunnel.stop()

    # --- one client -------------------------------------------------------------------------------------------

    def live(self, number: int) -> Live | None:
        """Its session."""
        return self.keeper.sessions.of(self._peer(number).slot)

    def _peer(self, number: int) -> Peer:
        peer = self.peers.at(number)
        if peer is None:
            raise LookupError(f"no client {number}")
        return peer

    def attach(self, now_ns: int, number: int) -> bool:
        """Its process starts and calls by its first path. False: it runs already."""
        if self._present[number]:
            return False
        self._call(now_ns, number)
        return True

    def _call(self, now_ns: int, number: int) -> None:
        peer = self._peer(number)
        self._present[number] = True
        self.tunnel.engine.set_endpoint(peer.slot, self.uplinks.endpoint(number, 0), now_ns)
        self.tunnel.exchange.wanted(now_ns, peer)

    def rekey(self, now_ns: int, number: int) -> bool:
        """Its keys are to be renewed. False: it has no session."""
        live = self.live(number)
        if live is None:
            return False
        active = live.core.active
        to = live.at(active.address) if active is not None else None
        self.tunnel.exchange.rekey(now_ns, live.peer, to)
        return True

    def restart(self, now_ns: int, number: int) -> bool:
        """Its process is killed and starts anew: it has its keys of old and what its state file says. False: it has no
        session.
        """
        live = self.live(number)
        if live is None:
            return False
        record = driver.snapshot(live.core, now_ns)
        self._forget(live)
        policy = self.keeper.greeting.policy
        self.keeper.sessions.restore(now_ns, live.peer, record, policy, down_ns=0, audited_version=0)
        self._call(now_ns, number)
        return True

    def _forget(self, live: Live) -> None:
        self.tally.forgotten(live.core)
        live.ended, live.deadline_ns = True, None  # its entry in the queue of deadlines is passed over
        self._runs[self.peers.number_of(live.slot)] += 1
        self._wipe(live.peer)

    def _wipe(self, peer: Peer) -> None:
        """Keys, and what the process knew."""
        self.tunnel.forget_keys(peer)
        self.tunnel.engine.mute(peer.slot, True, clock.now_ns())
        self.keeper.greeting.forget(peer.slot)
        peer.not_before_ns = 0

    def terminate(self, now_ns: int, number: int) -> bool:
        """`jvpn disconnect`. False: it has no session."""
        live = self.live(number)
        if live is None:
            return False
        self._present[number] = False
        self.keeper.sessions.feed(now_ns, live, OperatorTerminate(BY))
        self._wipe(live.peer)
        self._runs[number] += 1
        return True

    def rebind(self, now_ns: int, number: int, path_id: int, *, address: bool) -> bool:
        """Its address translator gives that path another port, or address and port. False: it has no session."""
        live = self.live(number)
        if live is None:
            return False
        self.uplinks.rebind(number, path_id - 1, address=address)
        self.keeper.refresh(now_ns, live)
        return True

    # --- what a client does by itself, as client.py ---------------------------------------------------------------

    def _ended(self, now_ns: int, live: Live) -> None:
        """It stays connected: the next session is begun, unless it was told to end."""
        number = self.peers.number_of(live.slot)
        self.on_ended(number)
        if not self._present[number]:
            return
        self.tunnel.engine.set_endpoint(live.slot, self.keeper.next_path(now_ns, live.peer).to, now_ns)
        self.tunnel.exchange.wanted(now_ns, live.peer)

    def _try_other_uplink(self, peer: Peer) -> None:
        """No answer and no key."""
        if not self.tunnel.has_key(peer):
            now_ns = clock.now_ns()
            self.tunnel.engine.set_endpoint(peer.slot, self.keeper.next_path(now_ns, peer).to, now_ns)
