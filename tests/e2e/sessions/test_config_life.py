# SPDX-License-Identifier: Apache-2.0
"""A configuration that changes under living sessions: one of our client, one of wireguard-go, and a TCP connection.

What a reload is to apply is applied and audited; a bad file is refused and the good one stays in force; a rollback goes
back, file included. Nobody loses a session, a packet of TCP or an identity over it.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.e2e.sessions.bed import NS_PER_S, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.jump import inner_host, session, sessions
from tests.net.jvpn import CLI, Daemon
from tests.net.lab import python_module
from tests.net.topology import ALLOWED, INNER_PREFIX, PORT, boot_ns
from tests.net.traffic import ping, wait_reachable
from tests.net.wg import WgDevice, WgPeer

RATE_PPS: Final = 200.0


def key_into_file(daemon: Daemon) -> None:
    """The private key goes out of the configuration, which may then be copied."""
    line = next(line for line in text_of(daemon).splitlines() if line.startswith("private_key"))
    path = daemon.folder / "own.key"
    path.touch(mode=0o600)
    path.write_text(json.loads(line.partition("=")[2]))
    edit(daemon, line, 'private_key_file = "own.key"')


def text_of(daemon: Daemon) -> str:
    return daemon.config_path.read_text()


def edit(daemon: Daemon, old: str, new: str) -> None:
    text = text_of(daemon)
    assert old in text
    daemon.config_path.write_text(text.replace(old, new))


def jvpn(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return daemon.namespace.run(python_module(CLI, *words), env=daemon.env, check=False)


def applied_policies(bed: Bed, since_ns: int, ident: str) -> list[str]:
    """What a session was told to follow at the gateway."""
    events = bed.gateway.journal.of("POLICY_EVENT", since_ns=since_ns, session_id=ident)
    assert all(event["applied"] for event in events)
    return [event["policy_hash"] for event in events]


def wait_policy(bed: Bed, ident: str, since_ns: int) -> dict[str, Any]:
    return bed.gateway.journal.wait(
        lambda body: body["event"] == "POLICY_EVENT" and body["session_id"] == ident,
        f"a policy for {ident[:8]}",
        since_ns=since_ns,
    )


def stock_client(bed: Bed, number: int) -> WgDevice:
    """wireguard-go on a machine of its own, with the keys of that peer."""
    assert bed.topology.second is not None
    peer = WgPeer(bed.gateway.daemon.keys.public, ALLOWED, f"10.1.0.2:{PORT}", keepalive_s=1)
    host = f"{inner_host(number)}/{INNER_PREFIX}"
    return WgDevice(bed.lab, bed.topology.second, bed.gateway.peer_keys[number], [host], [peer])


def test_a_policy_changes_under_a_jump_and_a_stock_session(make_bed: MakeBed) -> None:
    bed = make_bed(peers=2, second_client=True, policy={"session": {"max_lifetime": "2h"}})
    daemon = bed.gateway.daemon
    key_into_file(daemon)
    bed.start()
    stock = stock_client(bed, 1).start()
    wait_reachable(bed.topology.second, "10.8.0.1")  # type: ignore[arg-type]
    theirs = next(row.session_id for row in sessions(daemon) if row.stock)
    good = text_of(daemon)
    with bed.client.stream(200.0) as stream:
        # SIGHUP: both sessions are told, and the log says what was applied.
        began_ns = boot_ns()
        edit(daemon, 'max_lifetime = "2h"', 'max_lifetime = "3h"')
        changed = text_of(daemon)
        daemon.proc.signal(signal.SIGHUP)
        for ident in (bed.ident, theirs):
            wait_policy(bed, ident, began_ns)
        daemon.proc.wait_line('"event": "configuration applied"')
        followed = {ident: applied_policies(bed, began_ns, ident) for ident in (bed.ident, theirs)}
        assert [len(hashes) for hashes in followed.values()] == [1, 1]

        # A bad file changes nothing: the answer names file, line and key, and what was in force is in force.
        edit(daemon, 'max_lifetime = "3h"', 'max_lifetime = "999d"')
        refused = jvpn(daemon, "config", "reload")
        line = 1 + changed[: changed.index("max_lifetime")].count("\n")
        assert refused.returncode == 2
        assert f"{daemon.config_path}:{line}: policy.session.max_lifetime: " in refused.stderr
        assert jvpn(daemon, "config", "diff").returncode == 2
        daemon.proc.signal(signal.SIGHUP)
        daemon.proc.wait_line('"event": "configuration refused')
        daemon.config_path.write_text(changed)
        assert daemon.cli_json("config", "diff")["changes"] == []

        # Back to what was in force before: in the daemon, for its sessions, and in the file.
        again_ns = boot_ns()
        document = daemon.cli_json("config", "rollback")
        assert document["applied"] == ["policy.session.max_lifetime"]
        assert document["file_written"] and text_of(daemon) == good
        assert Path(document["undone"]).read_text() == changed
        for ident in (bed.ident, theirs):
            wait_policy(bed, ident, again_ns)
        log = stream.stop()
    assert log.tcp.alive_after(again_ns)
    assert (log.up.lost(began_ns), log.down.lost(began_ns)) == ([], [])
    bed.same_session()
    assert session(daemon, theirs).state == "ATTACHED"
    assert bed.gateway.journal.session_ids() == [bed.ident, theirs]
    stock.stop()


def test_the_client_follows_the_gateways_new_policy_with_its_next_keys(make_bed: MakeBed) -> None:
    keys = {"rekey_after_time": "3s", "reject_after_time": "20s"}
    bed = make_bed(gateway_tables={"keys": keys}, client_tables={"keys": keys})
    daemon = bed.gateway.daemon
    bed.start()
    with bed.client.stream(100.0):
        began_ns = boot_ns()
        daemon.config_path.write_text(text_of(daemon) + '[policy.liveness]\nprofile = "critical"\n')
        document = daemon.cli_json("config", "reload")
        assert (document["applied"], document["needs_restart"]) == (["policy.liveness.profile"], [])
        assert document["kept"] is False  # this file holds the key itself
        assert jvpn(daemon, "config", "rollback").returncode == 4
        # The client's own slower profile holds; its next WELCOME names the lifetime.
        edit(daemon, "[policy.liveness]", '[policy.session]\nmax_lifetime = "3h"\n[policy.liveness]')
        daemon.cli("config", "reload")
        told = bed.client.journal.wait(
            lambda body: body["event"] == "POLICY_EVENT", "the gateway's new policy", since_ns=began_ns
        )
        policy = next(
            body["values"]
            for body in bed.client.journal.of("POLICY")
            if body["policy"] == told["policy_hash"]
        )
        assert (told["applied"], policy["session.max_lifetime"]) == (True, 3 * 3600 * NS_PER_S)
        assert policy["liveness.profile"] == "DEFAULT"
    bed.same_session()


def test_peers_come_go_and_change_while_others_live(make_bed: MakeBed) -> None:
    """peer0 is our client and stays; peer1's prefix moves to it; peer1 goes with its session, and comes again."""
    bed = make_bed(peers=2, second_client=True)
    daemon = bed.gateway.daemon
    bed.start()
    stock = stock_client(bed, 1).start()
    second = bed.topology.second
    assert second is not None
    wait_reachable(second, "10.8.0.1")
    theirs = next(row.session_id for row in sessions(daemon) if row.stock)
    before = text_of(daemon)
    with bed.client.stream(200.0) as stream:
        began_ns = boot_ns()
        edit(daemon, f'["{inner_host(1)}/32"]', f'["{inner_host(1)}/32", "10.77.0.0/24"]')
        assert daemon.cli_json("config", "reload")["applied"] == ["peer.peer1.allowed_ips"]
        assert daemon.peer("peer1")["allowed_ips"] == [f"{inner_host(1)}/32", "10.77.0.0/24"]
        route = bed.topology.gateway.run(["ip", "route", "show", "10.77.0.0/24"]).stdout
        assert daemon.interface in route
        assert [row.session_id for row in sessions(daemon)] == [bed.ident, theirs]

        head, _, table = before.rpartition("[[peer]]")
        assert 'name = "peer1"' in table
        daemon.config_path.write_text(head)
        assert daemon.cli_json("config", "reload")["applied"] == ["peer.peer1"]
        assert [row.session_id for row in sessions(daemon)] == [bed.ident]
        assert not ping(second, "10.8.0.1", count=1).ok
        assert bed.topology.gateway.run(["ip", "route", "show", "10.77.0.0/24"]).stdout == ""

        daemon.config_path.write_text(before)
        daemon.proc.signal(signal.SIGHUP)
        wait_reachable(second, "10.8.0.1", 30.0)
        log = stream.stop()
    assert log.tcp.alive_after(began_ns)
    assert (log.up.lost(began_ns), log.down.lost(began_ns)) == ([], [])
    bed.same_session()
    stock.stop()


def test_a_client_takes_its_own_policy_over(make_bed: MakeBed) -> None:
    """What is its own counts at once; what is the gateway's stays the gateway's; a bad file changes nothing."""
    bed = make_bed()
    daemon = bed.client.daemon
    bed.start()
    began_ns = boot_ns()
    edit(
        daemon,
        "[client]",
        '[policy.switching]\ncooldown = "9s"\nmax_switches_per_min = 5\n[log]\nlevel = "error"\n[client]',
    )
    found = daemon.cli_json("config", "reload")
    wanted = {"policy.switching.cooldown", "policy.switching.max_switches_per_min", "log.level"}
    assert (set(found["applied"]), found["needs_restart"]) == (wanted, [])
    told = bed.client.journal.wait(
        lambda body: body["event"] == "POLICY_EVENT", "the policy", since_ns=began_ns
    )
    policy = next(
        body["values"] for body in bed.client.journal.of("POLICY") if body["policy"] == told["policy_hash"]
    )
    assert (policy["switching.cooldown"], policy["switching.max_switches_per_min"]) == (9_000_000_000, 8)
    edit(daemon, 'cooldown = "9s"', 'cooldown = "never"')
    daemon.proc.signal(signal.SIGHUP)
    daemon.proc.wait_line('"event": "configuration refused')
    edit(daemon, 'cooldown = "never"', 'cooldown = "9s"')
    edit(daemon, "[client]", "[client]\nmtu = 1300")
    assert daemon.cli_json("config", "reload")["needs_restart"] == ["client.mtu"]
    assert len(bed.client.journal.of("POLICY_EVENT", since_ns=began_ns)) == 1
    bed.same_session()


def test_nat_and_the_separation_of_clients_change_in_one_step(make_bed: MakeBed) -> None:
    bed = make_bed()
    daemon, place = bed.gateway.daemon, bed.topology.gateway
    bed.start()

    def rules() -> str:
        return place.run(["nft", "list", "ruleset"]).stdout

    assert "masquerade" not in rules()
    with bed.client.stream(RATE_PPS) as stream:
        began_ns = boot_ns()
        plain = text_of(daemon)
        daemon.config_path.write_text(plain + '[nat]\nenabled = true\nout_interface = "gwa"\n')
        assert daemon.cli_json("config", "reload")["applied"] == ["nat.enabled", "nat.out_interface"]
        assert "masquerade" in rules()
        daemon.config_path.write_text(plain)
        daemon.cli("config", "reload")
        assert "masquerade" not in rules()
        log = stream.stop()
    assert log.tcp.alive_after(began_ns)
    assert log.up.lost(began_ns) == []
    # Tracking begins with NAT: until a packet of the client has been seen, what comes back looks like a stranger's.
    assert len(log.down.lost(began_ns)) <= 0.1 * RATE_PPS
    bed.same_session()
