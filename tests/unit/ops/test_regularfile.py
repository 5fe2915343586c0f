# SPDX-License-Identifier: Apache-2.0
"""Nothing but a file is read where a file is named: in every place that reads one, and without waiting."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control import config, keysfile, regularfile
from gateway.errors import ConfigErrors, JumpError
from tests.unit.control.samples import GATEWAY
from tests.unit.ops.conftest import Jvpn


def pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


KINDS = {
    "pipe": (pipe, "is a pipe, not a file"),
    "socket": (listener, "is a socket, not a file"),
    "folder": (Path.mkdir, "Is a directory"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
}
every_kind = pytest.mark.parametrize(("put", "says"), KINDS.values(), ids=KINDS)


def test_a_file_is_read_up_to_a_length_with_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_bytes(b"12345")
    path.chmod(0o640)
    link.symlink_to(path)
    for place in (path, link):
        assert regularfile.read(place, 9) == (b"12345", 0o100640)
        assert regularfile.read(place, 3) == (b"123", 0o100640)


@every_kind
def test_a_configuration_is_a_file(
    jvpn: Jvpn, tmp_path: Path, put: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "gateway.toml"
    put(path)
    found = jvpn("config", "check", str(path))
    assert found.exit_code == 2
    assert found.stderr == f"{path}: {says}\n"
    with pytest.raises(ConfigErrors, match=says):
        config.load_client(path)


@every_kind
def test_a_key_is_a_file(tmp_path: Path, put: Callable[[Path], None], says: str) -> None:
    path = tmp_path / "gateway.key"
    put(path)
    with pytest.raises(JumpError, match=says):
        keysfile.read_key_file(path)
    text = "\n".join(line for line in GATEWAY.splitlines() if "private_key" not in line)
    text = text.replace("[gateway]\n", '[gateway]\nprivate_key_file = "gateway.key"\n', 1)
    with pytest.raises(ConfigErrors, match=says):
        config.parse_gateway(text, str(tmp_path / "g.toml"), tmp_path, {})


@every_kind
@pytest.mark.parametrize("key", ["token_file", "operator_token_file"])
def test_tokens_are_in_a_file(tmp_path: Path, put: Callable[[Path], None], says: str, key: str) -> None:
    put(tmp_path / "tokens")
    text = GATEWAY + f'\n[stats]\nlisten = ["127.0.0.1:1"]\n{key} = "tokens"\n'
    with pytest.raises(ConfigErrors, match=says):
        config.parse_gateway(text, str(tmp_path / "g.toml"), tmp_path, {})
