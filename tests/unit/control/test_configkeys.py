# SPDX-License-Identifier: Apache-2.0
"""Key by key: whatever a file changes is named, and it is told truly whether a running daemon takes it over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from gateway.control import config, configkeys, configschema
from gateway.control.configkeys import HIDDEN, compared, take_client, take_gateway, values
from gateway.control.configmodel import ClientConfig, GatewayConfig
from gateway.control.configpolicy import ELSEWHERE
from gateway.core.policy import Policy
from tests.unit.control import samples

TOKEN = "0123456789abcdef"
OTHER_TOKEN = "fedcba9876543210"

# One table that differs from the defaults, and the key that must be named alone.
GATEWAY = [
    ("gateway.interface", 'interface = "jv9"'),
    ("gateway.listen", 'listen = ["0.0.0.0:9"]'),
    ("gateway.mtu", "mtu = 1300"),
    ("gateway.endpoint", 'endpoint = "vpn.example.net:9"'),
    ("gateway.advertise", 'advertise = ["192.0.2.1:9"]'),
    ("gateway.dns", 'dns = ["9.9.9.9"]'),
    ("gateway.fwmark", "fwmark = 7"),
    ("gateway.wg_socket", "wg_socket = false"),
    ("nat.enabled", "[nat]\nenabled = true"),
    ("nat.out_interface", '[nat]\nout_interface = "eth0"'),
    ("forward.enabled", "[forward]\nenabled = false"),
    ("forward.clients", "[forward]\nclients = true"),
    ("handshake.under_load_per_s", "[handshake]\nunder_load_per_s = 7"),
    ("keys.rekey_after_time", '[keys]\nrekey_after_time = "60s"'),
    ("keys.reject_after_time", '[keys]\nreject_after_time = "170s"'),
    ("offload.tun", '[offload]\ntun = "off"'),
    ("offload.udp_segment", "[offload]\nudp_segment = false"),
    ("offload.udp_gro", "[offload]\nudp_gro = false"),
    ("workers.native", "[workers]\nnative = true"),
    ("audit.max_bytes", "[audit]\nmax_bytes = 2097152"),
    ("audit.keep_files", "[audit]\nkeep_files = 5"),
    ("control.socket", '[control]\nsocket = "/run/x.sock"'),
    ("log.level", '[log]\nlevel = "debug"'),
    ("stats.enabled", "[stats]\nenabled = false"),
    ("stats.listen", '[stats]\nlisten = ["127.0.0.1:9"]'),
    ("stats.socket", '[stats]\nsocket = "/run/x.http"'),
    ("stats.hosts", '[stats]\nhosts = ["vpn.example.net"]'),
    ("stats.wireguard_names", "[stats]\nwireguard_names = true"),
    ("stats.per_session", "[stats]\nper_session = true"),
    ("stats.open_health", "[stats]\nopen_health = true"),
    ("policy.session.max_lifetime", '[policy.session]\nmax_lifetime = "90m"'),
    ("policy.liveness.profile", '[policy.liveness]\nprofile = "critical"'),
    ("policy.volatility.loss_enter", "[policy.volatility]\nloss_enter = 0.2"),
    ("policy.dampening.suppress", "[policy.dampening]\nsuppress = 4.5"),
    ("policy.switching.reclaim", "[policy.switching]\nreclaim = true"),
    ("policy.transport.max_candidates", "[policy.transport]\nmax_candidates = 3"),
]
CLIENT = [
    ("client.dns", 'dns = ["9.9.9.9"]'),
    ("client.table", "table = 7"),
    ("client.listen_port", "listen_port = 7"),
    ("log.level", '[log]\nlevel = "error"'),
    ("policy.switching.cooldown", '[policy.switching]\ncooldown = "2s"'),
    ("transport.include", '[transport]\ninclude = ["wwan*"]'),
    ("transport.device", '[[transport.device]]\nname = "wwan*"\nmetered = true'),
]


def gateway(text: str = "", peers: str = "", folder: Path = Path()) -> GatewayConfig:
    return config.parse_gateway(f"{samples.GATEWAY}{text}\n{peers}", "g.toml", folder, {})


def client(text: str = "") -> ClientConfig:
    own, _, rest = samples.CLIENT.partition("\n\n")
    return config.parse_client(f"{own}\n{text}\n{rest}", "c.toml")


@pytest.mark.parametrize(("key", "text"), GATEWAY, ids=[key for key, _ in GATEWAY])
def test_a_key_of_a_gateway_that_differs_is_named_alone(key: str, text: str) -> None:
    running, file = gateway(), gateway(text)
    (change,) = compared(running, take_gateway(running, file), file)
    assert (change.key, change.live) == (key, configkeys.is_live(key, configkeys.LIVE_GATEWAY))
    assert change.running != change.file


@pytest.mark.parametrize(("key", "text"), CLIENT, ids=[key for key, _ in CLIENT])
def test_a_key_of_a_client_that_differs_is_named_alone(key: str, text: str) -> None:
    running, file = client(), client(text)
    (change,) = compared(running, take_client(running, file), file)
    assert (change.key, change.live) == (key, configkeys.is_live(key, configkeys.LIVE_CLIENT))


def test_every_key_of_the_schema_is_compared() -> None:
    """What could change without being named is only what stands for another key, or for nothing."""
    known = set(values(gateway()))
    tables = {
        field.encode_name: field.type
        for field in msgspec.structs.fields(configschema.GatewayFile)
        if field.encode_name not in ("peer", "policy")
    }
    named = {
        f"{table}.{key.encode_name}" for table, kind in tables.items() for key in msgspec.structs.fields(kind)
    }
    assert named - known == {"gateway.private_key_file", "gateway.carrier"}
    bounds = {field.metadata["key"] for field in dataclasses.fields(Policy)} - set(ELSEWHERE)
    assert {key for key in known if key.startswith("policy.")} == {f"policy.{key}" for key in bounds}


def test_nothing_differs_between_a_file_and_itself() -> None:
    text = samples.peer(3) + samples.peer(4)
    assert compared(gateway("", text), gateway("", text), gateway("", text)) == []


def test_peers_are_compared_by_name() -> None:
    running = gateway("", samples.peer(3) + samples.peer(4))
    file = gateway("", samples.peer(5) + samples.peer(4, more='keepalive = "9s"\nprotocol = "jump"\n'))
    found = {change.key: change for change in compared(running, take_gateway(running, file), file)}
    assert set(found) == {"peer.p3", "peer.p5", "peer.p4.keepalive", "peer.p4.protocol"}
    assert all(change.live for change in found.values())
    assert (found["peer.p5"].running, found["peer.p5"].file) == (None, ["10.99.0.5/32"])


def test_secrets_are_compared_and_never_shown() -> None:
    running = gateway("", samples.peer(3, more=f'preshared_key = "{samples.private(8)}"\n'))
    text = samples.GATEWAY.replace(samples.OWN, samples.private(7))
    peer = samples.peer(3, more=f'preshared_key = "{samples.private(9)}"\n')
    file = config.parse_gateway(text + peer, "g.toml")
    found = {change.key: change for change in compared(running, take_gateway(running, file), file)}
    assert set(found) == {"gateway.private_key", "peer.p3.preshared_key"}
    assert {(change.running, change.file) for change in found.values()} == {(HIDDEN, HIDDEN)}
    assert [found[key].live for key in ("gateway.private_key", "peer.p3.preshared_key")] == [False, True]


def test_a_token_may_change_but_not_vanish_while_listeners_stay(tmp_path: Path) -> None:
    for name, token in (("one", TOKEN), ("two", OTHER_TOKEN)):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(token)
    one, two = (gateway(f'[stats]\ntoken_file = "{name}"', "", tmp_path) for name in ("one", "two"))
    (change,) = compared(one, take_gateway(one, two), two)
    assert change == ("stats.token_file", HIDDEN, HIDDEN, True)
    for running, file in ((one, gateway()), (gateway(), one)):
        taken = take_gateway(running, file)
        assert taken.stats.token == running.stats.token
        (change,) = compared(running, taken, file)
        assert (change.key, change.live) == ("stats.token_file", False)


def test_operators_go_at_once_and_come_where_the_listeners_are_those_they_were_checked_with(
    tmp_path: Path,
) -> None:
    for name, lines in (("both", f"ann {TOKEN}\nbob {OTHER_TOKEN}\n"), ("ann", f"ann {TOKEN}\n")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(lines)

    def with_operators(name: str, more: str = "") -> GatewayConfig:
        return gateway(f'[stats]\noperator_token_file = "{name}"\n{more}', "", tmp_path)

    ann, both = with_operators("ann"), with_operators("both")
    assert [one.name for one in take_gateway(ann, both).stats.operators] == ["ann", "bob"]
    (change,) = compared(ann, take_gateway(ann, both), both)
    assert change == ("stats.operator_token_file", HIDDEN, HIDDEN, True)
    elsewhere = 'listen = ["127.0.0.1:9"]\n'
    assert [one.name for one in take_gateway(ann, with_operators("both", elsewhere)).stats.operators] == [
        "ann"
    ]
    assert [one.name for one in take_gateway(both, with_operators("ann", elsewhere)).stats.operators] == [
        "ann"
    ]
    assert take_gateway(both, gateway(f"[stats]\n{elsewhere}")).stats.operators == ()


def test_key_lifetimes_stay_the_data_planes() -> None:
    """They are the policy's too; one that waits for a restart must not come in by that door."""
    running = gateway()
    file = gateway('[keys]\nrekey_after_time = "60s"\n[policy.session]\nmax_lifetime = "3h"')
    taken = take_gateway(running, file)
    assert taken.policy.rekey_after_ns == running.policy.rekey_after_ns
    assert taken.policy.max_lifetime_ns == file.policy.max_lifetime_ns
    found = [(change.key, change.live) for change in compared(running, taken, file)]
    assert found == [("policy.session.max_lifetime", True), ("keys.rekey_after_time", False)]
