# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md says what the code does: every table row, every example, decoded and compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway import crypto, suites
from gateway import frames as fr
from gateway.framefields import Fault, Record, columns
from gateway.suites import Suite
from tests.unit.frames import samples

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text()
KEY = bytes(range(32))
DIRECTIONS = {fr.Direction.TO_GATEWAY: "C→G", fr.Direction.TO_CLIENT: "G→C", fr.Direction.BOTH: "both"}


def section(heading: str) -> str:
    """The text from a heading or a paragraph's first word to the next heading of any level."""
    start = TEXT.index(heading)
    return re.split(r"^#", TEXT[start + len(heading) :], maxsplit=1, flags=re.MULTILINE)[0]


def frame_section(of: type[fr.Frame]) -> str:
    return section(f"### {of.TYPE.name} ({int(of.TYPE)}, {DIRECTIONS[of.DIRECTION]})\n")


def rows(text: str) -> list[list[str]]:
    """The cells of the first table, without its head."""
    lines = text[text.index("|---") :].splitlines()[1:]
    end = next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def layout(of: type[Record]) -> list[list[str]]:
    """Offset, bytes and name of each column as the document writes them."""
    made, at, variable = [], 0, False
    for name, kind in columns(of):
        exact = kind.min_bytes == kind.max_bytes
        size = str(kind.min_bytes) if exact else f"{kind.min_bytes}..{kind.max_bytes}"
        made.append(["…" if variable else str(at), size, name])
        at, variable = at + kind.min_bytes, variable or not exact
    return made


def documented_layout(text: str) -> list[list[str]]:
    return [[offset, size, name] for offset, size, _, name, _ in rows(text)]


def block(text: str, kind: str) -> bytes:
    found = re.search(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert found, f"no example of a {kind}"
    return bytes.fromhex(found[1])


@pytest.mark.parametrize("of", fr.FRAMES, ids=lambda of: of.__name__)
def test_frame_tables(of: type[fr.Frame]) -> None:
    assert documented_layout(frame_section(of)) == layout(of)


@pytest.mark.parametrize(
    ("word", "of"),
    [
        ("\nEndpoint:", fr.Endpoint),
        ("\nInner address:", fr.InnerAddress),
        ("\nPolicy snapshot:", fr.PolicySnapshot),
    ],
)
def test_tables_of_parts(word: str, of: type[Record]) -> None:
    assert documented_layout(section(word)) == layout(of)


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_example_messages(example: fr.Frame) -> None:
    message = block(frame_section(type(example)), "message")
    assert fr.parse(message, samples.direction_of(example)) == (example,)
    assert fr.encode([example]) == message


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_example_datagrams(example: fr.Frame) -> None:
    text = frame_section(type(example))
    datagram, message = block(text, "datagram"), block(text, "message")
    head, sealed = datagram[: suites.HEADER_BYTES], datagram[suites.HEADER_BYTES :]
    if example.TYPE in fr.OPENING_TYPES:
        assert head.hex() == "04000000443322110900000000000000"
        key, ad = suites.traffic_key(KEY, Suite.CHACHA20_POLY1305), b""
    else:
        assert suites.read_header(datagram) == (Suite.CONTROL, 1, 0, 0x11223344, 9)
        key, ad = suites.traffic_key(KEY, Suite.CONTROL), head
    assert crypto.chacha20poly1305_decrypt(key, 9, sealed, ad) == message


def test_faults() -> None:
    assert [row[0] for row in rows(section("counted under one of these names"))] == [
        fault.value for fault in Fault
    ]


def test_suites() -> None:
    documented = {row[0]: row[1:] for row in rows(section("### Type 4 and type 5"))}
    made = {str(int(suite)): [str(cell) for cell in traits] for suite, traits in suites.TRAITS.items()}
    for cells in made.values():
        cells[-1] = f"2^{int(cells[-1]).bit_length() - 1}"
    assert documented == made


def test_reasons() -> None:
    for of, reasons in ((fr.Refuse, fr.RefuseReason), (fr.SwitchAdvice, fr.AdviceReason)):
        documented = re.search(r"^Reasons: (.*)\.$", frame_section(of), flags=re.MULTILINE)
        assert documented and documented[1] == ", ".join(f"{r.name} {r.value}" for r in reasons)


def test_limits_in_the_text() -> None:
    words = " ".join(TEXT.split())
    assert f"1 to {fr.FRAMES_MAX} frames" in words
    assert f"at most {fr.MESSAGE_BYTES_MAX} bytes" in words
    assert f"padded to {fr.PMTU_MESSAGE_BYTES_MAX:,}" in words
