# SPDX-License-Identifier: Apache-2.0
"""Where things live, and what the first start makes."""

from __future__ import annotations

import itertools
import os
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.control import statedir
from gateway.control.config import load_gateway
from gateway.control.keysfile import read_key_file
from gateway.errors import HostError


def test_the_explicit_choice_wins_then_ours_then_systemds(tmp_path: Path) -> None:
    both = {"JVPN_STATE_DIR": "/a", "STATE_DIRECTORY": "/b"}
    assert statedir.state_dir(tmp_path, both) == tmp_path
    assert statedir.state_dir(None, both) == Path("/a")
    assert statedir.state_dir(None, {"STATE_DIRECTORY": "/b"}) == Path("/b")
    assert statedir.runtime_dir({"JVPN_RUNTIME_DIR": "/a", "RUNTIME_DIRECTORY": "/b"}) == Path("/a")
    assert statedir.runtime_dir({"RUNTIME_DIRECTORY": "/run/wireguard:/run/jvpn"}) == Path("/run/jvpn")
    assert statedir.runtime_dir({"RUNTIME_DIRECTORY": "/run/x:/run/y"}) == Path("/run/x")


def test_root_has_the_systems_places_and_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert statedir.state_dir(None, {}) == Path("/var/lib/jvpn")
    assert statedir.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/0"}) == Path("/run/jvpn")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert statedir.state_dir(None, {"XDG_STATE_HOME": "/home/u/s"}) == Path("/home/u/s/jvpn")
    assert statedir.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/1000"}) == Path("/run/user/1000/jvpn")
    assert statedir.runtime_dir({}) == Path("/run/jvpn")


def test_sockets(tmp_path: Path) -> None:
    environ = {"JVPN_RUNTIME_DIR": str(tmp_path)}
    assert statedir.control_socket("wg0", environ) == tmp_path / "wg0.sock"
    (tmp_path / "plain.sock").write_text("")
    assert statedir.control_sockets(environ) == []
    assert statedir.control_sockets({"JVPN_RUNTIME_DIR": str(tmp_path / "none")}) == []


def test_directories_are_private(tmp_path: Path) -> None:
    made = statedir.ensure_dir(tmp_path / "a/b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    assert stat.S_IMODE(statedir.ensure_dir(made).stat().st_mode) == 0o755
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be made"):
        statedir.ensure_dir(tmp_path / "file/x")


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    statedir.write_file(path, "one")
    statedir.write_file(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_bootstrap_makes_a_gateway_that_loads(tmp_path: Path) -> None:
    counter = itertools.count(1)
    directory = tmp_path / "state"
    made = statedir.bootstrap_gateway(directory, lambda size: bytes([next(counter)]) * size)
    assert len(made.created) == 2
    assert str(directory / "gateway.key") in made.created[0]
    assert "10.2.2.0/24" in made.created[1]
    config = load_gateway(made.config_path)
    assert config.pools == (ip_network("10.2.2.0/24"), ip_network("fd02:202:202::/64"))
    assert config.public_key == made.public_key
    assert config.private_key == read_key_file(directory / "gateway.key").key
    assert config.nat_enabled
    assert config.warnings == ()
    for name in ("gateway.key", "gateway.toml"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_bootstrap_keeps_what_is_there(tmp_path: Path) -> None:
    first = statedir.bootstrap_gateway(tmp_path)
    first.config_path.write_text("# mine\n")
    second = statedir.bootstrap_gateway(tmp_path)
    assert second.created == ()
    assert second.public_key == first.public_key
    assert first.config_path.read_text() == "# mine\n"
    first.config_path.unlink()
    assert len(statedir.bootstrap_gateway(tmp_path).created) == 1


def test_pools_are_random_and_unique_local() -> None:
    pools = {statedir.random_pools(os.urandom) for _ in range(20)}
    assert len(pools) == 20
    for ipv4, ipv6 in pools:
        assert ipv4.subnet_of(ip_network("10.0.0.0/8"))  # type: ignore[arg-type]
        assert ipv6.subnet_of(ip_network("fd00::/8"))  # type: ignore[arg-type]
        assert (ipv4.prefixlen, ipv6.prefixlen) == (24, 64)
