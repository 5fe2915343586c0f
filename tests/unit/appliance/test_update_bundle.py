# SPDX-License-Identifier: Apache-2.0
"""Bundles: what was signed comes out again; anything else is refused, by an error that says what is wrong."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.update import sign
from appliance.update.bundle import (
    FILES,
    MAGIC,
    MANIFEST_MAX_BYTES,
    BundleReader,
    FileEntry,
    Manifest,
    decode_manifest,
    head,
)
from gateway import crypto
from gateway.errors import AuthError, HostError, JumpError, ProtocolError, Refused
from tests.unit.appliance.updating import NEW, PUBLIC, SEED, make_bundle, make_slot, manifest_of, quiet

SECRET = crypto.ed25519_seed_keypair(SEED)[1]


@pytest.fixture
def bundle(tmp_path: Path) -> bytes:
    return make_bundle(tmp_path).read_bytes()


def read(data: bytes, public: bytes = PUBLIC) -> dict[str, bytes]:
    """Everything in a bundle, by name."""
    reader = BundleReader(BytesIO(data), public)
    return {entry.name: b"".join(chunks) for entry, chunks in reader.files()}


def signed(manifest: bytes) -> bytes:
    """A head whose signature is right, whatever the manifest says."""
    return (
        MAGIC + len(manifest).to_bytes(4, "little") + manifest + crypto.ed25519_sign(SECRET, MAGIC + manifest)
    )


def test_what_was_signed_comes_out_again(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, floor=7)
    slot = tmp_path / f"slot-2.0.0-{NEW}"
    assert read(path.read_bytes()) == {name: (slot / name).read_bytes() for name in FILES}
    manifest = manifest_of(path)
    assert (manifest.version, manifest.serial, manifest.floor) == ("2.0.0", NEW, 7)
    assert tuple(entry.name for entry in manifest.files) == tuple(FILES)
    assert manifest_of(make_bundle(tmp_path)).floor == NEW, (
        "what is older is forbidden unless the signer says else"
    )


def test_the_same_slot_and_key_make_the_same_bundle(tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "x").read_bytes() == make_bundle(tmp_path / "y").read_bytes()


def test_another_key_is_refused(bundle: bytes) -> None:
    other = crypto.ed25519_seed_keypair(bytes(32))[0]
    with pytest.raises(AuthError, match="not signed with the key of this appliance"):
        read(bundle, other)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_taken(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = _shared(tmp_path_factory)
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = whole[:at] + bytes((whole[at] ^ flip,)) + whole[at + 1 :]
    with pytest.raises(JumpError):
        read(changed)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_bundle_that_is_cut_or_goes_on_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = _shared(tmp_path_factory)
    keep = data.draw(st.integers(0, len(whole)))
    tail = data.draw(st.binary(min_size=0 if keep < len(whole) else 1, max_size=64))
    if keep < len(whole) and whole[keep:].startswith(tail):
        tail = b""
    with pytest.raises(JumpError):
        read(whole[:keep] + tail)


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, MAGIC + noise, MAGIC + len(noise).to_bytes(4, "little") + noise):
        with pytest.raises((ProtocolError, AuthError)):
            read(data)


class OneByOne:
    """A stream that gives single bytes, and counts."""

    def __init__(self, data: bytes) -> None:
        self.left = BytesIO(data)
        self.given = 0

    def read(self, size: int, /) -> bytes:
        self.given += min(size, 1)
        return self.left.read(min(size, 1))


def test_a_stream_may_come_in_any_pieces(bundle: bytes) -> None:
    reader = BundleReader(OneByOne(bundle), PUBLIC)
    assert {entry.name: b"".join(chunks) for entry, chunks in reader.files()} == read(bundle)


def test_a_length_is_judged_before_it_is_read() -> None:
    for length in (0, MANIFEST_MAX_BYTES + 1, 0xFFFF_FFFF):
        stream = OneByOne(MAGIC + length.to_bytes(4, "little") + bytes(200_000))
        with pytest.raises(ProtocolError, match="no sensible length"):
            BundleReader(stream, PUBLIC)
        assert stream.given == len(MAGIC) + 4


def document(**changes: Any) -> bytes:
    """A manifest as JSON with some fields changed; None takes one out."""
    fields: dict[str, Any] = {
        "arch": "amd64",
        "files": [{"name": name, "sha256": "0" * 64, "size_bytes": 1} for name in FILES],
        "flavour": "cloud",
        "floor": 0,
        "product": "jumping-vpn-appliance",
        "roothash": "0" * 64,
        "serial": 1,
        "version": "1",
    }
    fields = {key: value for key, value in (fields | changes).items() if value is not None}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def entries(**changes: Any) -> list[dict[str, Any]]:
    """The entries of all files, the first one changed."""
    made: list[dict[str, Any]] = [{"name": name, "sha256": "0" * 64, "size_bytes": 1} for name in FILES]
    made[0] |= changes
    return made


def test_a_plain_manifest_is_taken() -> None:
    assert decode_manifest(document()).serial == 1
    assert BundleReader(BytesIO(signed(document())), PUBLIC).manifest.version == "1"


@pytest.mark.parametrize(
    "manifest",
    [
        document(arch="arm64"),
        document(product="toaster"),
        document(serial=-1),
        document(serial=1 << 53),
        document(serial="1"),
        document(serial=1.0),
        document(serial=True),
        document(floor=2),
        document(flavour="vanilla"),
        document(version=""),
        document(version="1\n"),
        document(version="1;reboot"),
        document(version="1" * 65),
        document(roothash="0" * 63),
        document(roothash="0" * 64 + "\n"),
        document(roothash="G" * 64),
        document(files=[]),
        document(files=entries()[:-1]),
        document(files=entries() + entries()[:1]),
        document(files=list(reversed(entries()))),
        document(files=entries(name="../../etc/passwd")),
        document(files=entries(size_bytes=0)),
        document(files=entries(size_bytes=-1)),
        document(files=entries(size_bytes=(1 << 30) + 1)),
        document(files=[*entries()[:-1], entries()[-1] | {"size_bytes": 1025}]),
        document(files=entries(sha256="0" * 63)),
        document(files=entries(mode=0o4755)),
        document(extra=1),
        document(serial=None),
        b" " + document(),
        document().replace(b'"serial":1', b'"serial":1,"serial":1'),
        document().replace(b'"amd64"', b'"\\u0061md64"'),
        b"[" * 8000,
        b"null",
        b"\xff",
    ],
)
def test_a_manifest_that_is_signed_but_wrong_is_refused(manifest: bytes) -> None:
    with pytest.raises(ProtocolError):
        BundleReader(BytesIO(signed(manifest)), PUBLIC)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*json.loads(document()), "name", "x"]), inner, max_size=8)
        ),
        max_leaves=12,
    )
)
def test_any_signed_json_is_refused_in_order(value: object) -> None:
    with pytest.raises(ProtocolError):
        BundleReader(BytesIO(signed(json.dumps(value).encode())), PUBLIC)


def test_the_manifest_is_not_parsed_before_its_signature_was_checked() -> None:
    manifest = b"[" * 8000
    with pytest.raises(AuthError):
        BundleReader(BytesIO(MAGIC + len(manifest).to_bytes(4, "little") + manifest + bytes(64)), PUBLIC)


def test_the_signature_covers_the_magic() -> None:
    manifest = document()
    bare = MAGIC + len(manifest).to_bytes(4, "little") + manifest + crypto.ed25519_sign(SECRET, manifest)
    with pytest.raises(AuthError):
        BundleReader(BytesIO(bare), PUBLIC)


def test_head_refuses_what_no_appliance_would_take() -> None:
    files = tuple(FileEntry(name, "0" * 64, 1) for name in FILES)
    with pytest.raises(ProtocolError):
        head(Manifest("amd64", files, "cloud", 9, "jumping-vpn-appliance", "0" * 64, 1, "1"), SECRET)


# --- signing -------------------------------------------------------------------------------------------------------


def test_a_slot_whose_parts_do_not_belong_together_is_not_signed(tmp_path: Path) -> None:
    slot = make_slot(tmp_path / "slot")
    with (slot / "root.squashfs").open("r+b") as file:
        file.seek(9000)
        file.write(b"x")
    with pytest.raises(ProtocolError, match="do not belong together"):
        sign.write_bundle(slot, tmp_path / "out", SEED)
    assert not (tmp_path / "out").exists()


def test_a_tree_that_is_not_that_of_the_data_is_not_signed(tmp_path: Path) -> None:
    slot = make_slot(tmp_path / "slot")
    (slot / "root.verity").write_bytes((slot / "root.verity").read_bytes()[:-1] + b"x")
    with pytest.raises(ProtocolError, match="do not belong together"):
        sign.make_manifest(slot, "cloud")


def test_the_command_makes_a_key_and_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, slot, out = tmp_path / "k/update.key", make_slot(tmp_path / "slot"), tmp_path / "u.jvpnup"
    assert sign.main(["keygen", str(key)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert sign.main(["--key", str(key), str(slot), "-o", str(out)]) == 0
    public = sign.read_key(tmp_path / "k/update.key.pub")
    assert BundleReader(BytesIO(out.read_bytes()), public).manifest.serial == NEW
    assert sign.main(["keygen", str(key)]) == Refused.exit_code, "a key is never overwritten"
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "AAAA\n", "not base64!\n", "A" * 300])
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(HostError, match="is no key"):
        sign.read_key(tmp_path / "key")


def test_check_reads_to_the_end(bundle: bytes) -> None:
    stream = BytesIO(bundle)
    BundleReader(stream, PUBLIC).check(quiet)
    assert stream.tell() == len(bundle)


_WHOLE: list[bytes] = []


def _shared(factory: pytest.TempPathFactory) -> bytes:
    """One bundle for all examples."""
    if not _WHOLE:
        _WHOLE.append(make_bundle(factory.mktemp("bundle")).read_bytes())
    return _WHOLE[0]
