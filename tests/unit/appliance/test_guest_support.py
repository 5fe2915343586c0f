# SPDX-License-Identifier: Apache-2.0
"""The support bundle: nothing secret is in it, though everything that could name a secret was collected."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Sequence

import pytest

from appliance.guest import files, password, redact, support
from appliance.guest.host import Done
from gateway.control import keysfile
from tests.unit.appliance.box import Box

PSK = base64.b64encode(bytes(range(100, 132))).decode()
OPERATOR = "operator-token-0123456789"


def secretive(box: Box) -> list[bytes]:
    """A box with a secret in every place that may hold one; what must not be found."""
    layout = box.layout
    files.write(layout.secrets / "ops.tokens", f"anna {OPERATOR}\n", files.SECRET)
    files.write(layout.secrets / "phone.psk", f"{PSK}\n", files.SECRET)
    hash_ = password.hashed("correct horse battery")
    password.store(layout.admin_hash, hash_)
    inline = keysfile.encode_key(bytes(range(7, 39)))
    with layout.gateway_file.open("a") as file:
        file.write(f'\n[[peer]]\nname = "phone"\npublic_key = "{public()}"\npreshared_key = "{inline}"\n')
    (layout.state / "audit.key").write_bytes(bytes(range(200, 232)))
    host_key = (
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    files.write(layout.host_key, host_key, files.SECRET)
    key = layout.gateway_key.read_text().strip()
    raw = base64.b64decode(key)
    return [
        key.encode(),
        raw,
        raw.hex().encode(),
        layout.stats_token.read_text().strip().encode(),
        OPERATOR.encode(),
        PSK.encode(),
        inline.encode(),
        hash_.encode(),
        hash_.split("$")[-1].encode(),
        b"b3BlbnNzaC1rZXktdjEAAAA",
        bytes(range(200, 232)).hex().encode(),
    ]


def public() -> str:
    return keysfile.encode_key(keysfile.public_key(bytes(range(1, 33))))


def leaky(box: Box, secrets: list[bytes]) -> None:
    """Programs that print every secret there is."""
    said = "\n".join(secret.decode("latin-1") for secret in secrets)

    def answer(command: Sequence[str], _text: str) -> Done | None:
        return Done(1, f"{command[0]} says\n{said}\nadmin_password = hunter2\n", f"error: {said}")

    box.programs.answer = answer


def contents(box: Box) -> dict[str, bytes]:
    out = io.BytesIO()
    support.write(box.layout, box.programs, out, unix_s=0)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_no_secret_is_anywhere_in_it(booted: Box) -> None:
    secrets = secretive(booted)
    leaky(booted, secrets)
    found = contents(booted)
    for name, data in found.items():
        for secret in secrets:
            assert secret not in data, f"{name} holds a secret"
        assert b"hunter2" not in data, name
    # The same programs without a filter would have told them all: the check above can fail.
    raw = "".join(text for _, text in support.parts(booted.layout, booted.programs))
    assert all(secret.decode("latin-1") in raw for secret in secrets)


def test_what_helps_is_in_it(booted: Box) -> None:
    secretive(booted)
    booted.programs.answer = lambda command, _text: Done(0, f"output of {command[0]}\n")
    found = contents(booted)
    assert b"output of journalctl" in found["support/journal.txt"]
    assert b"[nat]\n" in found["support/gateway.toml"] and public().encode() in found["support/gateway.toml"]
    assert b'private_key_file = "credential:gateway.key"' in found["support/gateway.toml"]
    assert b"Name=ens3" in found["support/networkd/10-jvpn-wan.network"]
    assert b"9.9.9" in found["support/status.json"]


def test_a_program_that_is_missing_is_told(booted: Box) -> None:
    booted.programs.answer = lambda command, _text: Done(127, "", f"{command[0]}: not installed")
    assert b"[exit status 127] ss: not installed" in contents(booted)["support/sockets.txt"]


def test_a_part_is_bounded_and_keeps_its_end(booted: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "PART_MAX_CHARACTERS", 100)
    booted.programs.answer = lambda _command, _text: Done(0, "x" * 1000 + "the end")
    data = contents(booted)["support/journal.txt"]
    assert len(data) == 100 and data.endswith(b"the end")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('preshared_key = "abc"', f"preshared_key = {redact.REMOVED}"),
        ("  PresharedKey = abc=", f"  PresharedKey = {redact.REMOVED}"),
        ('"stats_token": "x",', f'"stats_token": {redact.REMOVED}'),
        ('token_file = "credential:stats.token"', 'token_file = "credential:stats.token"'),
        ('public_key = "abc"', 'public_key = "abc"'),
        ("hash $argon2id$v=19$m=8,t=1,p=1$abc$def end", f"hash {redact.REMOVED} end"),
    ],
)
def test_what_looks_like_a_secret_goes_although_nobody_knows_it(text: str, expected: str) -> None:
    assert redact.cleaned(text, []) == expected
