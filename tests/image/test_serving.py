# SPDX-License-Identifier: Apache-2.0
"""What one booted appliance does for its clients and its operator. The tests share it; the last ones restart parts
of it.

Drawn in tests/image/site.py. Its configuration is on a medium, it was booted by BIOS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.image.accel import Accelerator
from tests.image.appliance import SETTLE_S, Appliance, on_another_way
from tests.image.conftest import eventually
from tests.image.reach import STATS_PORT, ask_stats, connects
from tests.image.site import LAN_ADDRESS, WAN_ADDRESS
from tests.image.targets import judge_boot
from tests.net import journal
from tests.net.jump import JumpClient, inner_host
from tests.net.topology import BACKEND, ENDPOINTS, PORT, boot_ns
from tests.net.traffic import TcpServer, ping, tcp_recv, tcp_send, wait_reachable
from tests.net.wg import Keys, WgDevice, WgPeer

SSH_PORT: Final = 22
TRANSFER_BYTES: Final = 2_000_000
SPARE, STOCK = 1, 2


@pytest.fixture(scope="module")
def appliance(served: Appliance) -> Appliance:
    """The shared one."""
    return served


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> Iterator[JumpClient]:
    """Our client with two uplinks, connected."""
    made = appliance.gateway().client(endpoints=ENDPOINTS)
    made.daemon.start()
    made.wait_settled(SETTLE_S)
    yield made
    made.daemon.stop()
    assert journal.problems(made.daemon.state_dir) == []


def same_session(client: JumpClient, ident: str) -> None:
    """Both ends are attached, and it is the session of the beginning."""
    assert client.wait_attached(SETTLE_S).session_id == ident
    assert client.journal.session_ids() == [ident]


def test_two_transports_carry_one_session_to_the_lan(appliance: Appliance, client: JumpClient) -> None:
    seen = client.view()
    assert {appliance.site.topology.side_of(path.address) for path in seen.paths} == {"a", "b"}
    with TcpServer(appliance.site.backend) as server:
        assert tcp_send(client.namespace, BACKEND, TRANSFER_BYTES, server.port).ok
        assert tcp_recv(client.namespace, BACKEND, TRANSFER_BYTES, server.port).ok


def test_a_cut_link_is_survived_by_the_same_session(client: JumpClient) -> None:
    ident, cut = client.wait_settled(SETTLE_S).session_id, client.active()
    with client.stream(rate_pps=50) as stream:
        wait_reachable(client.namespace, BACKEND)
        cut_ns = cut.blackhole("both")
        client.wait_view(on_another_way(client, cut), "moved", SETTLE_S)
        wait_reachable(client.namespace, BACKEND)
        end_ns = boot_ns()
        log = stream.stop()
    cut.heal()
    gaps_ms = [flow.longest_gap(cut_ns, end_ns).ms for flow in (log.up, log.down)]
    print(f"\ncut link: {gaps_ms[0]:.0f} ms without packets up, {gaps_ms[1]:.0f} ms down")
    assert log.tcp.alive_after(cut_ns), log.tcp
    same_session(client, ident)


def test_stock_wireguard_go_is_served_as_well(appliance: Appliance) -> None:
    keys = appliance.peer_keys[STOCK]
    # A machine of its own: the client's routes into the tunnel are taken.
    stock = appliance.site.topology.uplinks["b"].router
    public = appliance.gateway().daemon.keys.public
    peer = WgPeer(public, ["10.8.0.1/32", f"{BACKEND}/32"], endpoint=f"{WAN_ADDRESS}:{PORT}")
    device = WgDevice(appliance.lab, stock, keys, [f"{inner_host(STOCK)}/32"], [peer]).start()
    try:
        wait_reachable(stock, BACKEND, 60)
        with TcpServer(appliance.site.backend) as server:
            assert tcp_recv(stock, BACKEND, TRANSFER_BYTES // 4, server.port).ok
        assert device.handshakes() >= 1
    finally:
        device.stop()


def test_the_stats_endpoint_is_read_from_the_lan_with_its_token(appliance: Appliance) -> None:
    backend = appliance.site.backend
    assert ask_stats(backend, "/stats").json()["schema"].startswith("jvpn.")
    assert ask_stats(backend, "/readyz").status == 200
    assert ask_stats(backend, "/stats", token=None).status == 401
    assert ask_stats(backend, "/stats", token="f" * 32).status == 401


@pytest.mark.parametrize("port", [SSH_PORT, STATS_PORT])
def test_management_answers_in_the_lan_and_never_in_the_wan(appliance: Appliance, port: int) -> None:
    site = appliance.site
    assert connects(site.backend, LAN_ADDRESS, port)
    assert not connects(site.rack, WAN_ADDRESS, port)
    # Nor the LAN's own address for somebody who sends packets for it to the WAN card.
    relay = site.topology.uplinks["a"].router
    relay.ip("route", "replace", f"{LAN_ADDRESS}/32", "via", "10.11.0.2")
    site.rack.ip("route", "replace", f"{LAN_ADDRESS}/32", "via", WAN_ADDRESS)
    assert not connects(relay, LAN_ADDRESS, port)


def test_management_is_not_reached_through_the_tunnel(client: JumpClient) -> None:
    wait_reachable(client.namespace, BACKEND)
    assert not connects(client.namespace, "10.8.0.1", STATS_PORT)
    assert not connects(client.namespace, "10.8.0.1", SSH_PORT)


def test_a_reload_takes_a_new_peer_and_touches_no_session(appliance: Appliance, client: JumpClient) -> None:
    ident, pid = client.view().session_id, main_pid(appliance)
    keys = Keys.generate()
    table = f'\n[[peer]]\nname = "late"\npublic_key = "{keys.public}"\nallowed_ips = ["10.8.9.9/32"]\n'
    appliance.guest.run("cat >> /etc/jvpn/gateway.toml", stdin=table)
    appliance.guest.run("systemctl reload jvpn-gateway")
    eventually(lambda: "late" in peer_names(appliance), "the new peer")
    assert main_pid(appliance) == pid
    same_session(client, ident)


def test_a_reload_of_a_bad_file_changes_nothing(appliance: Appliance, client: JumpClient) -> None:
    ident, pid = client.view().session_id, main_pid(appliance)
    appliance.guest.run(
        "cp -p /etc/jvpn/gateway.toml /run/good && echo 'listn = 1' >> /etc/jvpn/gateway.toml"
    )
    appliance.guest.run("systemctl reload jvpn-gateway", check=False)
    said = appliance.guest.wait("journalctl -u jvpn-gateway -o cat | grep 'configuration refused'", "refused")
    assert "listn" in said
    appliance.guest.run("cat /run/good > /etc/jvpn/gateway.toml && systemctl reload jvpn-gateway")
    assert main_pid(appliance) == pid
    same_session(client, ident)


def test_a_drain_keeps_who_is_there_and_takes_nobody_new(appliance: Appliance, client: JumpClient) -> None:
    ident, backend = client.wait_attached(SETTLE_S).session_id, appliance.site.backend
    appliance.guest.run("jvpn drain")
    assert ask_stats(backend, "/readyz").status == 503
    assert ask_stats(backend, "/livez").status == 200
    before = appliance.gateway().daemon.counter("handshake_draining")
    # A machine of its own, right at the provider.
    machine = appliance.site.topology.uplinks["a"].router
    far = {"transport": {"include": ["far"]}}
    newcomer = appliance.gateway().client(
        SPARE, endpoints=[f"{WAN_ADDRESS}:{PORT}"], namespace=machine, tables=far
    )
    newcomer.daemon.start()
    try:
        eventually(
            lambda: appliance.gateway().daemon.counter("handshake_draining") > before,
            "a handshake that is refused",
        )
        same_session(client, ident)
        appliance.guest.run("jvpn drain --stop")
        assert ask_stats(backend, "/readyz").status == 200
        newcomer.wait_attached(SETTLE_S)
    finally:
        newcomer.daemon.stop()


def test_a_restart_of_the_unit_resumes_the_session(appliance: Appliance, client: JumpClient) -> None:
    ident, pid = client.wait_attached(SETTLE_S).session_id, main_pid(appliance)
    appliance.guest.run("systemctl restart jvpn-gateway")
    assert main_pid(appliance) != pid
    same_session(client, ident)
    wait_reachable(client.namespace, BACKEND, SETTLE_S)


def test_a_stalled_gateway_is_restarted_by_the_watchdog_and_sessions_resume(
    appliance: Appliance, client: JumpClient
) -> None:
    ident, pid = client.wait_attached(SETTLE_S).session_id, main_pid(appliance)
    appliance.guest.run(f"kill -STOP {pid}")
    eventually(lambda: main_pid(appliance) not in (0, pid), "a new process in place of the stalled one", 120)
    assert "atchdog" in appliance.guest.out("journalctl -b -o cat -u jvpn-gateway")
    same_session(client, ident)
    wait_reachable(client.namespace, BACKEND, SETTLE_S)


def test_a_reboot_keeps_the_keys_and_the_session(
    appliance: Appliance, client: JumpClient, accelerator: Accelerator
) -> None:
    ident, public = client.wait_attached(SETTLE_S).session_id, appliance.gateway().daemon.keys.public
    machine_id = appliance.guest.out("cat /etc/machine-id")
    boot_id = appliance.guest.out("cat /proc/sys/kernel/random/boot_id")
    # The operator's connection insists on the SSH host key that it knows.
    judge_boot("reboot, BIOS", appliance.reboot(), "bios", accelerator)
    assert appliance.guest.out("cat /proc/sys/kernel/random/boot_id") != boot_id
    assert appliance.guest.out("cat /etc/machine-id") == machine_id
    assert appliance.guest.out("jvpn keys pub < /etc/jvpn/gateway.key") == public
    same_session(client, ident)
    assert ping(client.namespace, BACKEND).ok
    assert appliance.guest.failed_units() == []


def test_the_journal_of_all_that_is_sound(appliance: Appliance, client: JumpClient) -> None:
    client.wait_attached(SETTLE_S)
    daemon = appliance.gateway().daemon
    daemon.stop()
    assert journal.problems(daemon.state_dir, rebooted=True) == []
    appliance.guest.run("systemctl start jvpn-gateway")
    client.wait_attached(SETTLE_S)


def peer_names(appliance: Appliance) -> set[str]:
    """Whom the gateway knows."""
    return {str(peer.get("name")) for peer in appliance.gateway().daemon.status()["peers"]}


def main_pid(appliance: Appliance) -> int:
    """The process of the unit, 0 for none."""
    return int(appliance.guest.out("systemctl show -P MainPID jvpn-gateway"))
