# SPDX-License-Identifier: Apache-2.0
"""What a running gateway takes over, on a real tunnel and keeper: sessions live on, and every part is as wanted."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from gateway.control import clock, config
from gateway.control.configkeys import take_gateway
from gateway.control.configmodel import GatewayConfig
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.gatewaylive import GatewayLive, Peering
from gateway.control.loglevel import GATE, LEVELS
from gateway.control.peerbook import PeerBook
from gateway.control.peersfile import PeersFile
from gateway.control.sessions import Live, address_name
from gateway.core.driver import First
from gateway.core.inputs import Confirmed
from gateway.core.policy import Profile
from gateway.core.reasons import Reason
from gateway.core.states import Role, State
from gateway.dataplane.engine import Endpoint
from gateway.errors import ConfigErrors, HostError, NotFound, Refused
from gateway.net.gatewaynet import GatewayNetwork
from gateway.net.netlink import Netlink
from gateway.net.undo import UndoJournal
from gateway.noise.handshake import NO_PSK
from tests.unit.control import samples
from tests.unit.ops.statshost import Made, base, on_loop, serving

PEERS = range(3, 150)  # more than one turn's worth of them
TOKEN, OTHER = "correct-horse-battery", "staple-battery-horse"


class Running:
    """A gateway that serves, with the peers of a configuration."""

    def __init__(self, made: Made, folder: Path, text: str) -> None:
        self.made, self.folder = made, folder
        started = self.started = self.parse(text)
        self.book = PeerBook(started, PeersFile(folder / "state"))
        self.settled, self.refuses = 0, False
        tunnel = made.tunnel
        assert isinstance(tunnel.keeper, GatewayKeeper)
        self.keeper = tunnel.keeper
        for peer in self.book.peers.values():
            tunnel.add_peer(peer)
        self.live = GatewayLive(
            started,
            tunnel=tunnel,
            keeper=self.keeper,
            book=self.book,
            network=GatewayNetwork(Netlink(), UndoJournal(folder / "state", "lo")),
            peering=Peering(
                install=self._install,
                uninstall=lambda peer: tunnel.peers.remove(tunnel.peers.by_name(peer.name)),
                change=lambda changed: tunnel.peers.change(changed, clock.now_ns()),
                settle=self._settle,
            ),
            surface=made.server,
            log=made.log,
        )

    def _install(self, peer: PeerConfig) -> None:
        self.made.tunnel.add_peer(peer)

    async def _settle(self) -> None:
        if self.refuses:
            self.refuses = False
            raise HostError("the machine says no")
        self.settled += 1

    def attach(self, number: int) -> Live:
        """A stock session of a peer of the configuration."""
        now_ns, sessions = clock.now_ns(), self.made.sessions
        peer = self.made.tunnel.peers.by_name(f"p{number}")
        at = Endpoint.of("127.0.0.1", 9, self.made.tunnel.engine.socket_for(False))
        first, policy = First(1, address_name(at)), self.keeper.policy_of(peer)
        ident = number.to_bytes(4, "big") + bytes(12)
        live = sessions.create(now_ns, peer, Role.GATEWAY, ident, policy, first, at, stock=True)
        sessions.feed(now_ns, live, Confirmed(first.address))
        return live

    def parse(self, text: str) -> GatewayConfig:
        return config.parse_gateway(samples.GATEWAY + text, "g.toml", self.folder, {})

    async def apply(self, text: str) -> list[str]:
        return await self.live.apply(self.parse(text))


Scenario = Callable[[Running], Awaitable[None]]


def run(folder: Path, text: str, scenario: Scenario, **settings: object) -> None:
    async def work() -> None:
        async with serving(folder, settings=dict(settings)) as made:
            await scenario(Running(made, folder, text))

    level = GATE.level
    try:
        on_loop(work)
    finally:
        GATE.level = level


def audited(folder: Path, name: str) -> list[dict[str, object]]:
    files = sorted((folder / "state/audit").glob("audit-*.jsonl"))
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [record for record in records if record["event"] == name]


def test_every_living_session_follows_the_new_policy_and_it_is_audited(tmp_path: Path) -> None:
    peers = "".join(samples.peer(number) for number in PEERS)
    changed = '[policy.session]\nmax_lifetime = "3h"\n[policy.liveness]\nprofile = "critical"\n' + peers

    async def scenario(running: Running) -> None:
        lives = [running.attach(number) for number in PEERS]
        await running.apply(changed)
        assert {live.core.policy.profile for live in lives} == {Profile.CRITICAL}
        assert {live.core.policy.max_lifetime_ns for live in lives} == {3 * 3600 * 10**9}
        assert {live.core.state for live in lives} == {State.ATTACHED}
        assert running.keeper.policy_of(lives[0].peer) == lives[0].core.policy
        await running.apply(changed)

    run(tmp_path, peers, scenario)
    events = audited(tmp_path, "POLICY_EVENT")
    assert len(events) == len(PEERS)  # one each, and none for the same policy again
    assert all(event["applied"] for event in events)


def test_a_session_older_than_the_new_lifetime_ends_by_it(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        live = running.attach(3)
        live.core.born_ns -= 60 * 10**9
        await running.apply('[policy.session]\nmax_lifetime = "40s"\n' + samples.peer(3))
        running.made.sessions.timer_due(clock.now_ns(), 16)
        assert live.core.history()[-1].reason is Reason.SESSION_TTL_EXPIRED

    run(tmp_path, samples.peer(3), scenario)


def test_peers_come_go_and_change(tmp_path: Path) -> None:
    psk = f'preshared_key = "{samples.private(8)}"\n'

    async def scenario(running: Running) -> None:
        peers = running.made.tunnel.peers
        kept, moved = peers.by_name("p3"), peers.by_name("p4")
        slots, session = (kept.slot, moved.slot), running.attach(3)
        # p4's prefix goes to p3, p5 comes, p6 goes.
        text = samples.peer(3, more=psk + 'keepalive = "9s"\n') + samples.peer(4) + samples.peer(5)
        text = text.replace('["10.99.0.3/32"]', '["10.99.0.3/32", "10.99.0.4/32"]')
        text = text.replace('allowed_ips = ["10.99.0.4/32"]', 'allowed_ips = ["10.99.0.44/32"]')
        assert set(await running.apply(text)) == {
            "peer.p3.allowed_ips",
            "peer.p3.preshared_key",
            "peer.p3.keepalive",
            "peer.p4.allowed_ips",
            "peer.p5",
            "peer.p6",
        }
        assert {peer.config.name for peer in peers} == {"p3", "p4", "p5"}
        assert (peers.by_name("p3"), peers.by_name("p4")) == (kept, moved)
        assert (kept.slot, moved.slot) == slots
        assert kept.keys.psk == bytes([8]) * 32
        assert session.core.state is State.ATTACHED and not session.ended
        # Back again: nothing of it lasts.
        await running.apply(samples.peer(3) + samples.peer(4) + samples.peer(6))
        assert kept.keys.psk == NO_PSK
        assert {str(net) for net in moved.config.allowed_ips} == {"10.99.0.4/32"}
        assert running.settled == 2

    run(tmp_path, samples.peer(3) + samples.peer(4) + samples.peer(6), scenario)


def test_another_name_or_protocol_is_another_peer(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        peers = running.made.tunnel.peers
        before = peers.by_name("p3")
        await running.apply(samples.peer(3, more='protocol = "jump"\n'))
        strict = peers.by_name("p3")
        assert strict is not before and strict.config.protocol == "jump"
        await running.apply(samples.peer(3).replace('"p3"', '"phone"'))
        assert [peer.config.name for peer in peers] == ["phone"]

    run(tmp_path, samples.peer(3), scenario)


def test_peers_toml_changed_by_another_hand_counts_too(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        other = PeerBook(running.parse(""), PeersFile(tmp_path / "state"))
        other.add({"name": "tablet", "public_key": samples.public(9)})
        assert await running.apply("") == ["peer.tablet"]
        assert running.made.tunnel.peers.by_name("tablet").config.managed

    run(tmp_path, "", scenario)


def test_what_is_refused_has_changed_nothing(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        other = PeerBook(running.parse(""), PeersFile(tmp_path / "state"))
        other.add({"name": "p4", "public_key": samples.public(9)})
        with pytest.raises(ConfigErrors, match="belongs to"):
            await running.apply(samples.peer(4) + "[handshake]\nunder_load_per_s = 7\n")
        assert [peer.config.name for peer in running.made.tunnel.peers] == ["p3"]
        assert list(running.book.peers) == ["p3"]
        # Right in the file, which gives the gateway another address; but that waits for a restart.
        file = running.parse(
            'addresses = ["10.99.0.9/24"]\n' + samples.peer(1).replace(samples.public(1), samples.public(6))
        )
        with pytest.raises(
            Refused, match=r"10\.99\.0\.1/32 belongs to the gateway itself until it is restarted"
        ):
            await running.live.apply(take_gateway(running.started, file))
        running.keeper.host_suites = ()
        with pytest.raises(Refused, match="suites"):
            await running.apply(samples.peer(5))
        assert [peer.config.name for peer in running.made.tunnel.peers] == ["p3"]

    run(tmp_path, samples.peer(3), scenario)


def test_what_the_machine_refuses_half_way_is_taken_back_by_the_same_code(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        peers, session = running.made.tunnel.peers, running.attach(3)
        before = {peer.config.public_key: peer.config for peer in peers}
        wider = samples.peer(3).replace('["10.99.0.3/32"]', '["10.99.0.3/32", "10.99.0.4/32"]')
        running.refuses = True
        with pytest.raises(HostError):
            await running.apply(wider + samples.peer(5))
        await running.live.apply(running.started)
        assert {peer.config.public_key: peer.config for peer in peers} == before
        # One peer alone, as `wg set` asks for it: that takes itself back.
        phone, running.refuses = peers.by_name("p3"), True
        with pytest.raises(HostError):
            await running.live.change_peer(replace(phone.config, keepalive_s=9))
        assert phone.config == running.book.find("p3") == before[phone.config.public_key]
        await running.live.change_peer(replace(phone.config, keepalive_s=9))
        assert phone.config.keepalive_s == running.live.configured[0].keepalive_s == 9
        with pytest.raises(NotFound):
            await running.live.change_peer(replace(phone.config, public_key=bytes(32)))
        assert session.core.state is State.ATTACHED and not session.ended

    run(tmp_path, samples.peer(3) + samples.peer(4), scenario)


def test_small_things_count_at_once(tmp_path: Path) -> None:
    for name, token in (("one", TOKEN), ("two", OTHER), ("three", "ann of-her-own-for-acting")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(token)

    async def status(running: Running, token: str, host: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "Host": host}
        async with (
            aiohttp.ClientSession() as session,
            session.get(base(running.made) + "/livez", headers=headers) as answer,
        ):
            return answer.status

    async def scenario(running: Running) -> None:
        assert await status(running, TOKEN, "localhost") == 200
        assert await status(running, TOKEN, "vpn.example.net") == 421
        await running.apply(
            '[log]\nlevel = "error"\n[handshake]\nunder_load_per_s = 3\n'
            '[stats]\ntoken_file = "two"\nhosts = ["vpn.example.net"]\noperator_token_file = "three"\n'
        )
        assert await status(running, TOKEN, "localhost") == 401
        assert await status(running, OTHER, "vpn.example.net") == 200
        assert running.made.server is not None
        operators = {one.name for door in running.made.server._doors for one in door.access.operators}
        assert operators == {"ann"}
        assert GATE.level == LEVELS["error"]
        meter, now_ns = running.made.tunnel.admission._meter, clock.now_ns()
        assert [meter.add(now_ns) for _ in range(5)] == [False, False, False, True, True]

    run(tmp_path, '[stats]\ntoken_file = "one"\n', scenario, token=TOKEN.encode())


def test_the_client_is_told_what_is_advertised_by_now(tmp_path: Path) -> None:
    async def scenario(running: Running) -> None:
        text = 'advertise = ["192.0.2.1:9"]\n'
        await running.apply(text)
        assert [(str(one.ip), one.port) for one in running.keeper.reception.endpoints] == [("192.0.2.1", 9)]

    run(tmp_path, "", scenario)
