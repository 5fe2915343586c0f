# SPDX-License-Identifier: Apache-2.0
"""Series of single sessions and peers in /metrics, sessions of both protocols, and what the machine lends."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families

from gateway.constants import NS_PER_S
from gateway.control import clock, keysfile
from gateway.control.configfields import network
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.configmodel import Workers
from gateway.control.sessions import Live, address_name
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.core.states import Role
from gateway.dataplane import engine as dp
from gateway.noise.handshake import Identity, TransportKeys
from gateway.ops.stats import series
from gateway.ops.stats.text import Text, escaped
from gateway.suites import Suite
from tests.unit.ops.statshost import PSK, SOMEWHERE, Made, get, on_loop, serving

WIREGUARD: Final = (
    "wireguard_sent_bytes_total",
    "wireguard_received_bytes_total",
    "wireguard_latest_handshake_seconds",
)
ODD_NAME: Final = 'a "b" \\ c'


def add_jump_session(made: Made, number: int) -> Live:
    """A session of our own client, its path measured."""
    now_ns = clock.now_ns()
    peer = made.tunnel.peers.add(PeerConfig(f"jump{number}", number.to_bytes(32, "big"), PSK), now_ns)
    at = dp.Endpoint.of("127.0.0.1", 9, made.tunnel.engine.socket_for(False))
    first = First(1, address_name(at))
    ident = bytes([number]) * 16
    live = made.sessions.create(now_ns, peer, Role.GATEWAY, ident, Policy(), first, at, stock=False)
    live.suite = Suite.AEGIS_128L
    made.sessions.feed(now_ns, live, inp.Confirmed(SOMEWHERE))
    made.sessions.feed(now_ns, live, inp.PathMeasured(1, 20_000, 1000, 500, 10_000, 64, 1, 16, 16))
    return live


async def samples(made: Made) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    text = (await get(made, "/metrics"))[1]
    return {
        (one.name, *one.labels.values()): one.value for family in families(text) for one in family.samples
    }


def test_stock_and_jump_sessions_are_told_apart(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session(1)
            add_jump_session(made, 2)
            add_jump_session(made, 3)
            found = await samples(made)
            assert found["jvpn_sessions", "ATTACHED"] == 3
            assert found["jvpn_sessions_by_suite", "wireguard", "chacha20-poly1305"] == 1
            assert found["jvpn_sessions_by_suite", "jump", "aegis-128l"] == 2
            assert found["jvpn_paths_measured",] == 2
            assert found["jvpn_path_rtt_seconds", "median"] == 0.02
            assert found["jvpn_path_loss_ratio", "max"] == 0.01

    on_loop(work)


def test_every_family_is_there_whatever_the_peers_speak(tmp_path: Path) -> None:
    """One that has no series yet has its name and type all the same."""

    async def named(folder: Path, add: Any) -> set[str]:
        folder.mkdir()
        async with serving(folder, settings={"per_session": True, "wireguard_names": True}) as made:
            add(made)
            text = (await get(made, "/metrics"))[1]
            return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))

    async def work() -> None:
        stock = await named(tmp_path / "s", lambda made: made.add_session())
        jump = await named(tmp_path / "j", lambda made: add_jump_session(made, 1))
        none = await named(tmp_path / "n", lambda made: None)
        assert stock == jump == none

    on_loop(work)


def test_a_series_per_session_for_both_protocols(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, settings={"per_session": True}) as made:
            stock, jump = made.add_session(1), add_jump_session(made, 2)
            found = await samples(made)
            for live in (stock, jump):
                who = (live.core.session_id.hex(), live.core.peer)
                assert found["jvpn_session_state", *who, "ATTACHED"] == 1
                assert found["jvpn_session_bytes_total", *who, "in"] == 0
            ident = jump.core.session_id.hex()
            assert found["jvpn_session_rtt_seconds", ident, "jump2"] == 0.02
            assert found["jvpn_session_loss_ratio", ident, "jump2"] == 0.01

    on_loop(work)


def test_lines_that_are_kept_change_with_their_values(tmp_path: Path) -> None:
    """Traffic, a state, a measurement, and an end between two scrapes."""

    async def work() -> None:
        async with serving(tmp_path, settings={"per_session": True, "wireguard_names": True}) as made:
            stock, jump = made.add_session(1), add_jump_session(made, 2)
            before = await samples(made)
            now_ns, who = clock.now_ns(), (jump.core.session_id.hex(), "jump2")
            made.sessions.feed(now_ns, jump, inp.PathMeasured(1, 40_000, 1000, 500, 20_000, 64, 1, 16, 16))
            install(made, stock.slot)  # a keepalive confirms it
            after = await samples(made)
            assert before["jvpn_session_rtt_seconds", *who] == 0.02
            assert after["jvpn_session_rtt_seconds", *who] == 0.04
            assert after["jvpn_session_loss_ratio", *who] == 0.02
            sent = "jvpn_session_bytes_total", stock.core.session_id.hex(), "peer1", "out"
            assert before[sent] == 0 and after[sent] == made.tunnel.engine.stats(stock.slot)["tx_bytes"] > 0
            total = {key: value for key, value in after.items() if key[0] == "wireguard_sent_bytes_total"}
            assert sorted(total.values()) == [0, after[sent]]
            made.sessions.feed(clock.now_ns(), jump, inp.OperatorTerminate())
            left = await samples(made)
            assert not [key for key in left if who[0] in key]
            assert left["jvpn_session_state", stock.core.session_id.hex(), "peer1", "ATTACHED"] == 1

    on_loop(work)


def plainly(made: Made) -> list[str]:
    """The series of all sessions as one writes them who keeps nothing."""
    lines: list[list[str]] = [[], [], [], []]
    for live in made.sessions:
        core, engine = live.core, made.tunnel.engine.stats(live.slot)
        who = f'session="{core.session_id.hex()}",peer="{escaped(core.peer)}"'
        lines[0].append(f'jvpn_session_state{{{who},state="{core.state.name}"}} 1')
        for way, counter in (("in", "rx_bytes"), ("out", "tx_bytes")):
            total = dict(engine)[counter]
            lines[1].append(f'jvpn_session_bytes_total{{{who},direction="{way}"}} {total}')
        path = None if core.stock else core.path(core.bound_id)
        if path is not None and path.srtt_us:
            lines[2].append(f"jvpn_session_rtt_seconds{{{who}}} {path.srtt_us / 1e6}")
            lines[3].append(f"jvpn_session_loss_ratio{{{who}}} {path.loss_ppm / 1e6}")
    return [line for family in lines for line in family]


def test_what_is_kept_is_what_would_be_written(tmp_path: Path) -> None:
    """Batches of sessions, of which some end, come, move, are measured and have traffic between two scrapes."""

    async def work() -> None:
        async with serving(tmp_path, settings={"per_session": True}) as made:
            stock = [made.add_session(number) for number in range(1, 2 * series._BATCH + 11)]
            jump = [add_jump_session(made, number) for number in range(1, 40)]
            peer = made.tunnel.peers.add(PeerConfig("odd", b"\x07" * 32, PSK), clock.now_ns())
            object.__setattr__(peer.config, "name", ODD_NAME)
            at = dp.Endpoint.of("127.0.0.1", 9, made.tunnel.engine.socket_for(False))
            first = First(1, address_name(at))
            made.sessions.create(
                clock.now_ns(), peer, Role.GATEWAY, b"\x07" * 16, Policy(), first, at, stock=True
            )

            def end(live: Live) -> None:
                made.sessions.feed(clock.now_ns(), live, inp.OperatorTerminate())

            def measure(live: Live) -> None:
                one = inp.PathMeasured(1, 33_333, 1000, 500, 123, 64, 1, 16, 16)
                made.sessions.feed(clock.now_ns(), live, one)

            steps: list[Callable[[], object]] = [
                lambda: None,
                lambda: install(made, stock[-1].slot),
                lambda: end(stock[0]),
                lambda: measure(jump[3]),
                lambda: [end(live) for live in (*stock[5:300], *jump[:2])],
                lambda: [measure(jump[7]), install(made, stock[400].slot), made.add_session(5000)],
                lambda: [end(live) for live in list(made.sessions)[20:]],
                lambda: [end(live) for live in list(made.sessions)],
            ]
            for step in steps:
                step()
                text = (await get(made, "/metrics"))[1]
                found = [line for line in text.splitlines() if line.startswith("jvpn_session_")]
                assert found == plainly(made)
            assert made.server is not None
            kept = made.server._pages._series[0]
            assert isinstance(kept, series.SessionSeries)
            assert not kept._rows and not kept._batches

    on_loop(work)


def test_scrapes_that_overlap(tmp_path: Path) -> None:
    """Each answer is whole, although what is kept is renewed and forgotten between them."""

    async def work() -> None:
        async with serving(tmp_path, settings={"per_session": True}) as made:
            for number in range(1, 3 * series._BATCH):
                made.add_session(number)
            kept = series.SessionSeries()

            async def scrape() -> bytes:
                text = Text()
                await kept.write(text, made.seen)
                return text.encode()

            first = asyncio.ensure_future(scrape())
            await asyncio.sleep(0)
            for live in list(made.sessions)[10:]:
                made.sessions.feed(clock.now_ns(), live, inp.OperatorTerminate())
            second = asyncio.ensure_future(scrape())
            whole, left = await first, await second
            assert left.count(b"jvpn_session_state{") == 10
            assert whole.count(b"jvpn_session_state{") == series._BATCH
            assert await scrape() == left

    on_loop(work)


def test_lines_of_a_peer_whose_configuration_changed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, settings={"wireguard_names": True}) as made:
            peer = made.tunnel.peers.add(PeerConfig("old", bytes(range(32)), PSK), clock.now_ns())
            assert 'friendly_name="old"' in (await get(made, "/metrics"))[1]
            made.tunnel.peers.remove(peer)
            assert "friendly_name=" not in (await get(made, "/metrics"))[1]
            made.tunnel.peers.add(PeerConfig("new", bytes(range(32)), PSK), clock.now_ns())
            text = (await get(made, "/metrics"))[1]
            assert 'friendly_name="new"' in text and 'friendly_name="old"' not in text

    on_loop(work)


def test_requests_that_are_refused_and_alarms_are_counted(tmp_path: Path) -> None:
    """At the gateway a limit shows as the refusal of a client's request."""

    async def work() -> None:
        async with serving(tmp_path) as made:
            jump = add_jump_session(made, 2)
            now_ns, epoch = clock.now_ns(), jump.core.epoch
            wrong = inp.ReattachRequest(1, epoch, 2, Reason.PREFERRED_PATH, False, "tcp:127.0.0.1:10", "tcp")
            made.sessions.feed(now_ns, jump, wrong)
            stock = made.add_session(1)
            made.sessions.feed(now_ns, stock, wrong)
            found = await samples(made)
            assert found["jvpn_switches_total", "unknown", "denied", "POLICY_DENIED"] == 1
            assert found["jvpn_security_events_total", "INVALID_STATE_TRANSITION"] == 1

    on_loop(work)


def test_a_request_whose_path_proves_nothing_has_failed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            jump = add_jump_session(made, 2)
            asked = inp.ReattachRequest(
                1, jump.core.epoch, 2, Reason.PREFERRED_PATH, False, "udp:127.0.0.1:10"
            )
            now_ns = clock.now_ns()
            made.sessions.feed(now_ns, jump, asked)
            for step in range(1, 40):  # nobody answers the challenge
                made.sessions.run_timers(now_ns + step * NS_PER_S // 2, jump)
            found = await samples(made)
            failed = [key for key in found if key[0] == "jvpn_switches_total" and "failed" in key]
            assert [key[1] for key in failed] == ["discretionary"]
            assert all(found[key] == 1 for key in failed)

    on_loop(work)


# --- wireguard_* ------------------------------------------------------------------------------------------------------


def install(made: Made, slot: int) -> None:
    """A keypair, as a handshake that began here leaves it."""
    index = made.tunnel.engine.new_index(slot)
    keys = TransportKeys(index, 1, bytes(32), bytes(range(32)), True, bytes(32))
    made.tunnel.engine.install(slot, keys, clock.now_ns())


def test_wireguards_names_only_when_asked_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session()
            assert "wireguard_" not in (await get(made, "/metrics"))[1].replace('protocol="wireguard"', "")

    on_loop(work)


def test_wireguards_names_have_the_exporters_labels(tmp_path: Path) -> None:
    """Also for peers that never came: dashboards count them."""

    async def work() -> None:
        async with serving(tmp_path, settings={"wireguard_names": True}) as made:
            allowed = (network("10.9.0.2/32"), network("fd99::2/128"))
            key = bytes(range(32))
            made.tunnel.peers.add(PeerConfig(ODD_NAME, key, PSK, allowed_ips=allowed), clock.now_ns())
            jump = add_jump_session(made, 2)
            install(made, jump.slot)
            text = (await get(made, "/metrics"))[1]
            found = {family.name: family for family in families(text)}
            for name in WIREGUARD:
                idle, active = found[name.removesuffix("_total")].samples
                assert idle.name == name and idle.value == 0
                assert idle.labels == {
                    "interface": "lo",
                    "public_key": keysfile.encode_key(key),
                    "allowed_ips": "10.9.0.2/32,fd99::2/128",
                    "friendly_name": ODD_NAME,
                }
                assert active.labels["friendly_name"] == "jump2"
            shaken_s = found["wireguard_latest_handshake_seconds"].samples[1].value
            assert abs(time.time() - shaken_s) < 10

    on_loop(work)


def test_openmetrics_of_everything(tmp_path: Path) -> None:
    async def work() -> None:
        settings = {"per_session": True, "wireguard_names": True}
        async with serving(tmp_path, settings=settings, workers=Workers(2, True)) as made:
            made.add_session(1)
            add_jump_session(made, 2)
            text = (await get(made, "/metrics", Accept="application/openmetrics-text; version=1.0.0"))[1]
            found = {family.name: family.type for family in open_metrics(text)}
            assert found["wireguard_sent_bytes"] == found["jvpn_dataplane"] == "counter"

    on_loop(work)


# --- the machine ------------------------------------------------------------------------------------------------------


def test_what_the_tunnel_uses_and_does_without(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            found = await samples(made)
            used = made.tunnel.offloads()
            assert {name: bool(found["jvpn_offload_active", name]) for name in used} == used
            assert not found["jvpn_offload_active", "tso4"]  # the device is a socket pair
            assert found["jvpn_suite_available", "chacha20-poly1305"] == 1
            assert found["jvpn_dataplane_total", "tx_gso_fallback"] == 0
            assert found["jvpn_workers",] == 1
            interfaces = [labels for name, *labels in found if name == "jvpn_build_info"]
            assert [made.seen.interface in labels for labels in interfaces] == [True]

    on_loop(work)


def test_no_counter_of_the_data_plane_is_left_out_or_twice(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            found = await samples(made)
            counters = made.tunnel.engine.counters()
            drops = {name.removeprefix("drop_") for name in counters if name.startswith("drop_")}
            assert {labels[0] for name, *labels in found if name == "jvpn_drops_total"} == drops
            rest = {labels[0] for name, *labels in found if name == "jvpn_dataplane_total"}
            own = {
                *("rx_datagrams", "tx_datagrams", "rx_bytes", "tx_bytes", "rx_calls", "tx_calls"),
                *("tun_rx_packets", "tun_tx_packets", "tun_rx_bytes", "tun_tx_bytes"),
            }
            assert rest == {name for name in counters if not name.startswith("drop_")} - own

    on_loop(work)


@pytest.mark.parametrize("count", [1, 2])
def test_native_workers_are_told_one_by_one(tmp_path: Path, count: int) -> None:
    async def work() -> None:
        async with serving(tmp_path, workers=Workers(count, True)) as made:
            found = await samples(made)
            assert found["jvpn_workers",] == count
            for number in range(count):
                assert found["jvpn_worker_cpu_seconds_total", str(number)] >= 0
                assert found["jvpn_worker_datagrams_total", str(number)] == 0

    on_loop(work)


def test_identity_is_in_no_label(tmp_path: Path) -> None:
    """Public keys of peers are, when asked for; the gateway's own key never."""

    async def work() -> None:
        async with serving(tmp_path, settings={"wireguard_names": True, "per_session": True}) as made:
            made.add_session()
            text = (await get(made, "/metrics"))[1]
            identity: Identity = made.tunnel.identity
            assert keysfile.encode_key(identity.public) not in text

    on_loop(work)
