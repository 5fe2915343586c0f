# SPDX-License-Identifier: Apache-2.0
"""csrc/src/frames.c and gateway/frames.py take and refuse the same messages, with the same fault, and write the same
probes. frames.c needs nothing but a compiler, so it is built here by itself.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import frames as fr
from gateway.framefields import Fault, FrameError
from tests.unit.frames import samples

CSRC = Path(__file__).resolve().parents[3] / "csrc"
HEADER = CSRC / "include" / "jv" / "frames.h"
FAULTS = {-1 - place: fault for place, fault in enumerate(Fault)}
# Python alone reads lists and values; the lengths of HELLO and WELCOME depend on their lists.
PYTHON_ONLY = {Fault.LIST_COUNT, Fault.VALUE}


def declarations() -> str:
    """The header as cffi takes it: no preprocessor, no attributes."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    numbers = dict(re.findall(r"#define (JV_\w+)\s+(\d+)$", text, flags=re.MULTILINE))
    text = re.sub(r"#define JV_\w+\s+\(.*?\)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#(?!define JV_\w+\s+(?:0x)?\d).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b(JV_API|JV_NONNULL|JV_WARN_UNUSED|JV_PURE)\b", "", text)
    return re.sub(r"\[(JV_\w+)\]", lambda m: f"[{numbers[m[1]]}]", text)


@pytest.fixture(scope="module")
def jv(tmp_path_factory: pytest.TempPathFactory) -> tuple[FFI, Any]:
    library = tmp_path_factory.mktemp("frames") / "frames.so"
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    flags = ["-std=gnu11", "-O1", "-fPIC", "-shared", f"-I{CSRC / 'include'}"]
    subprocess.run([*compiler, *flags, CSRC / "src" / "frames.c", "-o", library], check=True)
    ffi = FFI()
    ffi.cdef(declarations())
    return ffi, ffi.dlopen(str(library))


def c_walk(jv: tuple[FFI, Any], message: bytes, direction: fr.Direction) -> int | list[tuple[int, bytes]]:
    ffi, lib = jv
    found = ffi.new("struct jv_frame[]", fr.FRAMES_MAX)
    buffer = ffi.from_buffer(message)
    count = lib.jv_frames_walk(buffer, len(message), int(direction), found)
    if count < 0:
        return int(count)
    return [(f.type, bytes(ffi.buffer(f.body, f.body_bytes))) for f in found[0:count]]


def py_parse(message: bytes, direction: fr.Direction) -> Fault | tuple[fr.Frame, ...]:
    try:
        return fr.parse(message, direction)
    except FrameError as error:
        return error.fault


def compare(jv: tuple[FFI, Any], message: bytes, direction: fr.Direction) -> None:
    walked, parsed = c_walk(jv, message, direction), py_parse(message, direction)
    if isinstance(walked, int):
        assert parsed == FAULTS[walked]
    elif isinstance(parsed, Fault):
        variable = {fr.FrameType.HELLO, fr.FrameType.WELCOME} & {number for number, _ in walked}
        assert parsed in PYTHON_ONLY or (parsed == Fault.BODY_LENGTH and variable)
    else:
        assert [number for number, _ in walked] == [frame.TYPE for frame in parsed]
        for (_, body), frame in zip(walked, parsed, strict=True):
            assert body.startswith(fr.encode_frame(frame)[fr.HEADER_BYTES :])


def test_numbers_are_the_same(jv: tuple[FFI, Any]) -> None:
    _, lib = jv
    assert {t.name: getattr(lib, f"JV_FRAME_{t.name}") for t in fr.FrameType} == {
        t.name: t for t in fr.FrameType
    }
    assert max(fr.FrameType) + 1 == lib.JV_FRAME_TYPES
    assert (lib.JV_FRAMES_MAX, lib.JV_FRAMES_MESSAGE_MAX) == (fr.FRAMES_MAX, fr.MESSAGE_BYTES_MAX)
    assert (fr.PMTU_MESSAGE_BYTES_MAX, fr.MARK[0]) == (lib.JV_FRAMES_PMTU_MAX, lib.JV_FRAMES_MARK)
    assert (lib.JV_TO_GATEWAY, lib.JV_TO_CLIENT) == (fr.Direction.TO_GATEWAY, fr.Direction.TO_CLIENT)
    assert -len(Fault) == lib.JV_FRAMES_VALUE and FAULTS[lib.JV_FRAMES_PADDING] == Fault.PADDING


@pytest.mark.parametrize("direction", [fr.Direction.TO_GATEWAY, fr.Direction.TO_CLIENT])
@pytest.mark.parametrize("number", range(20))
def test_every_type_and_length(jv: tuple[FFI, Any], number: int, direction: fr.Direction) -> None:
    for size in (*range(80), *range(180, 220), *range(600, 660), *range(1190, 1201)):
        for flags in (0, 1, 2):
            message = b"\1" + bytes((number, flags)) + size.to_bytes(2, "little") + bytes(size)
            compare(jv, message, direction)


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_truncation_and_padding(jv: tuple[FFI, Any], example: fr.Frame) -> None:
    message = fr.encode([example], fr.MESSAGE_BYTES_MAX)
    for size in range(fr.MESSAGE_BYTES_MAX + 1):
        compare(jv, message[:size], samples.direction_of(example))
    compare(jv, message + b"\0", samples.direction_of(example))


def test_pmtu_probes(jv: tuple[FFI, Any]) -> None:
    probe = next(e for e in samples.EXAMPLES if isinstance(e, fr.Probe))
    message = fr.encode([dataclasses.replace(probe, pmtu=True)], fr.PMTU_MESSAGE_BYTES_MAX)
    for size in (1200, 1201, 9000, 65_000):
        compare(jv, message[:size], fr.Direction.TO_CLIENT)
    compare(jv, message + b"\0", fr.Direction.TO_CLIENT)
    compare(jv, message[:47] + b"\2" + message[48:], fr.Direction.TO_CLIENT)
    compare(jv, fr.encode([probe], 1200) + b"\0", fr.Direction.TO_CLIENT)


@settings(max_examples=300)
@given(samples.messages(), st.lists(st.tuples(st.integers(0, 1199), st.integers(0, 255)), max_size=3))
def test_messages_and_their_mutations(
    jv: tuple[FFI, Any], drawn: tuple[bytes, fr.Direction, Any], changes: list[tuple[int, int]]
) -> None:
    message, direction, _ = drawn
    changed = bytearray(message)
    for at, value in changes:
        changed[at % len(changed)] = value
    compare(jv, bytes(changed), direction)


@given(
    st.lists(st.tuples(st.integers(0, 17), st.integers(0, 3), st.binary(max_size=72)), max_size=18),
    st.sampled_from([fr.Direction.TO_GATEWAY, fr.Direction.TO_CLIENT]),
)
def test_garbage(jv: tuple[FFI, Any], parts: list[tuple[int, int, bytes]], direction: fr.Direction) -> None:
    heads = [bytes((n, flags)) + len(body).to_bytes(2, "little") + body for n, flags, body in parts]
    compare(jv, b"\1" + b"".join(heads), direction)


@given(samples.records(fr.Probe))
def test_probe(jv: tuple[FFI, Any], probe: fr.Probe) -> None:
    written_and_read(jv, probe, "struct jv_probe", "jv_probe")


@given(samples.records(fr.ProbeAck))
def test_probe_ack(jv: tuple[FFI, Any], ack: fr.ProbeAck) -> None:
    written_and_read(jv, ack, "struct jv_probe_ack", "jv_probe_ack")


def written_and_read(jv: tuple[FFI, Any], frame: fr.Frame, struct: str, prefix: str) -> None:
    ffi, lib = jv
    values = dataclasses.asdict(frame)
    wire, out = fr.encode_frame(frame), ffi.new("uint8_t[64]")
    assert getattr(lib, f"{prefix}_put")(out, ffi.new(f"{struct} *", values)) == len(wire)
    assert bytes(ffi.buffer(out, len(wire))) == wire
    body = ffi.from_buffer(wire[fr.HEADER_BYTES :])
    one = ffi.new("struct jv_frame *", {"body": body, "body_bytes": len(body), "type": frame.TYPE})
    back = ffi.new(f"{struct} *")
    assert getattr(lib, f"{prefix}_get")(one, back) == 0
    assert {name: getattr(back, name) for name in values} == values
