# SPDX-License-Identifier: Apache-2.0
"""Keys as text and as files."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import crypto
from gateway.control import keysfile
from gateway.errors import CryptoError, JumpError, NotFound
from tests.unit.control.samples import OWN, public


def test_a_generated_key_is_clamped_and_its_public_key_matches() -> None:
    key = keysfile.generate_private_key(secrets.token_bytes)
    assert key[0] & 7 == 0
    assert key[31] & 0xC0 == 0x40
    assert keysfile.public_key(key) == crypto.x25519_public(key)


def test_randomness_is_an_argument() -> None:
    assert keysfile.generate_preshared_key(lambda size: b"\x07" * size) == b"\x07" * 32


@given(st.binary(min_size=32, max_size=32))
def test_text_and_back(key: bytes) -> None:
    assert keysfile.decode_key(keysfile.encode_key(key)) == key


@given(st.one_of(st.text(max_size=60), st.text(min_size=44, max_size=44)))
def test_garbage_is_a_value_error_or_canonical(text: str) -> None:
    key, problem = b"", ""
    try:
        key = keysfile.decode_key(text)
    except ValueError as error:
        problem = str(error)
    assert keysfile.encode_key(key) == text if key else problem
    assert len(text) < 10 or text[:10] not in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 characters"),
        ("A" * 43, "43 characters"),
        ("A" * 44, "exactly 32 bytes"),  # 33 bytes, no padding
        ("A" * 42 + "==", "exactly 32 bytes"),
        ("A" * 42 + "B=", "exactly 32 bytes"),  # bits set that no 32 bytes have
        ("!" * 43 + "=", "not base64"),
        ("A" * 42 + "\n=", "not base64"),
    ],
)
def test_what_is_wrong_is_said_without_the_text(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        keysfile.decode_key(text)
    assert text[:20] not in str(caught.value) or not text


# The seven points of https://cr.yp.to/ecdh.html#validate that fit 255 bits.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top_bit", [0, 0x80])
def test_low_order_points_are_nobodys_key(point: str, top_bit: int) -> None:
    key = bytearray.fromhex(point)
    key[31] |= top_bit
    assert keysfile.is_low_order(bytes(key))
    with pytest.raises(ValueError, match="low-order"):
        keysfile.decode_public_key(keysfile.encode_key(bytes(key)))
    with pytest.raises(CryptoError):  # and libsodium agrees that they are
        crypto.x25519(b"\x09" * 32, bytes(key))


def test_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    keysfile.write_key_file(path, b"\x01" * 32)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keysfile.read_key_file(path) == (b"\x01" * 32, "")
    with pytest.raises(JumpError, match="never overwritten"):
        keysfile.write_key_file(path, b"\x02" * 32)
    assert keysfile.read_key_file(path).key == b"\x01" * 32
    keysfile.write_key_file(path, b"\x02" * 32, replace=True)
    assert keysfile.read_key_file(path).key == b"\x02" * 32
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.key"]


def test_a_file_everybody_reads_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    keysfile.write_key_file(path, b"\x01" * 32)
    path.chmod(0o644)
    assert "chmod 600" in keysfile.read_key_file(path).warning
    path.chmod(0o640)
    assert keysfile.read_key_file(path).warning == ""


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 45, b"A" * 10_000, b"\0" * 44])
def test_files_that_hold_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(content)
    with pytest.raises(JumpError, match=r"a\.key"):
        keysfile.read_key_file(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="jvpn keys gen"):
        keysfile.read_key_file(tmp_path / "none")
    with pytest.raises(JumpError, match="directory"):
        keysfile.read_key_file(tmp_path)


def test_repr_hides_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text(OWN)
    assert OWN not in repr(keysfile.read_key_file(path))
    assert repr(b"\x01" * 4)[2:-1] not in repr(keysfile.read_key_file(path))


def test_credentials_come_from_systemd(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert keysfile.resolve_key_path("credential:key", Path("/etc"), environ) == tmp_path / "key"
    assert keysfile.resolve_key_path("a/b.key", Path("/etc/jvpn"), {}) == Path("/etc/jvpn/a/b.key")
    assert keysfile.resolve_key_path("/a/b.key", Path("/etc/jvpn"), {}) == Path("/a/b.key")
    with pytest.raises(ValueError, match="LoadCredential"):
        keysfile.resolve_key_path("credential:key", Path("/etc"), {})


@pytest.mark.parametrize("name", ["", "..", "a/b", "../key", "a\0b", "x" * 256])
def test_a_credential_is_a_name_not_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        keysfile.resolve_key_path(f"credential:{name}", Path("/etc"), {"CREDENTIALS_DIRECTORY": "/run"})


def test_public_keys_pass() -> None:
    assert keysfile.encode_key(keysfile.decode_public_key(public(3))) == public(3)
