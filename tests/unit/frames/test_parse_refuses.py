# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes are, `parse` returns frames or raises FrameError with a named fault, and never a part of a
message.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import frames as fr
from gateway.errors import ProtocolError
from gateway.framefields import Fault, FrameError, UInt, columns
from tests.unit.frames import samples

UP, DOWN = fr.Direction.TO_GATEWAY, fr.Direction.TO_CLIENT
PING = fr.encode_frame(fr.Ping(token=samples.RANDOM))
PONG = fr.encode_frame(fr.Pong(token=samples.RANDOM))


def fault_of(message: bytes, direction: fr.Direction) -> Fault | None:
    """None when the message is taken; anything but a FrameError fails the test."""
    try:
        frames = fr.parse(message, direction)
    except FrameError as error:
        return error.fault
    assert all(isinstance(frame, fr.Frame) and frame.DIRECTION & direction for frame in frames)
    return None


def frame(number: int, body: bytes, flags: int = 0) -> bytes:
    return bytes((number, flags)) + len(body).to_bytes(2, "little") + body


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"", Fault.NOT_FRAMES),
        (b"\0" + PING, Fault.NOT_FRAMES),
        (b"\x45" + bytes(19), Fault.NOT_FRAMES),
        (b"\1", Fault.NO_FRAME),
        (b"\1" + bytes(1199), Fault.NO_FRAME),
        (b"\1" + bytes(5) + PING, Fault.PADDING),
        (b"\1" + PING + bytes(9) + b"\1", Fault.PADDING),
        (b"\1" + PING + bytes(1200 - len(PING)), Fault.TOO_LONG),
        (b"\1" + PING + bytes(70_000), Fault.TOO_LONG),
        (b"\1" + PING * 17, Fault.TOO_MANY),
        (b"\1" + frame(99, b"", flags=1) * 17, Fault.TOO_MANY),
        (b"\1" + PING + b"\x0d", Fault.TRUNCATED),
        (b"\1" + PING + b"\x0d\0\x08", Fault.TRUNCATED),
        (b"\1" + PING + b"\x0d\0\x08\0" + bytes(7), Fault.TRUNCATED),
        (b"\1" + b"\x63\x01\xff\xff", Fault.TRUNCATED),
        (b"\1" + PING + frame(16, b"x"), Fault.UNKNOWN_TYPE),
        (b"\1" + PING + frame(255, b"", flags=0xFE), Fault.UNKNOWN_TYPE),
        (b"\1" + frame(13, bytes(8), flags=2), Fault.RESERVED_FLAGS),
        (b"\1" + frame(13, bytes(8), flags=0x81), Fault.RESERVED_FLAGS),
        (b"\1" + frame(13, bytes(9)), Fault.BODY_LENGTH),
        (b"\1" + frame(13, b""), Fault.BODY_LENGTH),
        (b"\1" + frame(4, bytes(43)), Fault.VALUE),
        (b"\1" + frame(6, b"\1\2" + bytes(8)), Fault.VALUE),
        (b"\1" + frame(7, bytes(9)), Fault.VALUE),
    ],
)
def test_each_fault_has_its_name(message: bytes, fault: Fault) -> None:
    assert fault_of(message, UP) == fault
    assert fault_of(message, DOWN) == fault


def test_a_fault_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="not_frames: "):
        fr.parse(b"", UP)


def test_unknown_frames_that_may_be_ignored_are() -> None:
    message = b"\1" + frame(99, b"later", flags=1) + PING + frame(255, bytes(100), flags=0xFF) + PONG
    assert [type(f) for f in fr.parse(message, UP)] == [fr.Ping, fr.Pong]
    assert fr.parse(b"\1" + frame(16, b"", flags=1), DOWN) == ()


def test_a_known_frame_may_say_that_it_can_be_ignored() -> None:
    assert fr.parse(b"\1" + frame(13, samples.RANDOM, flags=1), UP) == (fr.Ping(token=samples.RANDOM),)


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_direction(example: fr.Frame) -> None:
    message = fr.encode([example])
    for direction in (UP, DOWN):
        allowed = bool(example.DIRECTION & direction)
        assert fault_of(message, direction) == (None if allowed else Fault.WRONG_DIRECTION)
    with pytest.raises(ValueError, match="one way"):
        fr.parse(message, fr.Direction.BOTH)


def test_directions_are_those_of_the_specification() -> None:
    up = {of.__name__ for of in fr.FRAMES if of.DIRECTION == UP}
    down = {of.__name__ for of in fr.FRAMES if of.DIRECTION == DOWN}
    assert up == {"Hello", "ReattachRequest"}
    assert down == {"Welcome", "Refuse", "ReattachAck", "ReattachReject", "SwitchAdvice"}


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_truncation_is_refused(example: fr.Frame) -> None:
    message, direction = fr.encode([example]), samples.direction_of(example)
    for size in range(len(message)):
        assert fault_of(message[:size], direction) in (Fault.NOT_FRAMES, Fault.NO_FRAME, Fault.TRUNCATED)


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_a_body_of_any_other_length_is_refused(example: fr.Frame) -> None:
    """Also when header and message agree on it: nothing may follow the last field."""
    body, direction = fr.encode([example])[5:], samples.direction_of(example)
    for size in (*range(len(body)), *range(len(body) + 1, len(body) + 40)):
        cut = body.ljust(size, b"\0")[:size]
        assert fault_of(b"\1" + frame(example.TYPE, cut), direction) == Fault.BODY_LENGTH


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_nothing_is_returned_when_a_later_frame_is_bad(example: fr.Frame) -> None:
    message, direction = fr.encode([example]), samples.direction_of(example)
    assert fault_of(message + PING, direction) is None
    assert fault_of(message + frame(13, bytes(9)), direction) == Fault.BODY_LENGTH
    assert fault_of(message + frame(200, b""), direction) == Fault.UNKNOWN_TYPE
    assert fault_of(message + frame(7, bytes(9)), direction) == Fault.VALUE


def hello_with(at: int, change: bytes) -> bytes:
    body = bytearray(fr.encode([samples.EXAMPLES[0]])[5:])
    body[at : at + len(change)] = change
    return b"\1" + frame(fr.FrameType.HELLO, bytes(body))


def welcome_with(at: int, change: bytes) -> bytes:
    body = bytearray(fr.encode([samples.WELCOME])[5:])
    body[at : at + len(change)] = change
    return b"\1" + frame(fr.FrameType.WELCOME, bytes(body))


@pytest.mark.parametrize("count", [0, 9, 100, 255])
def test_hostile_counts_of_suites(count: int) -> None:
    assert fault_of(hello_with(57, bytes((count,))), UP) == Fault.LIST_COUNT


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_counts_of_suites_that_disagree_with_the_length(count: int) -> None:
    assert fault_of(hello_with(57, bytes((count,))), UP) in (Fault.BODY_LENGTH, Fault.VALUE)


@pytest.mark.parametrize(("at", "most"), [(172, 8), (172 + 1 + 2 * 18, 16)], ids=["inner", "endpoints"])
def test_hostile_counts_of_addresses(at: int, most: int) -> None:
    faults = [fault_of(welcome_with(at, bytes((count,))), DOWN) for count in range(256)]
    assert faults[2] is None
    assert set(faults[most + 1 :]) == {Fault.LIST_COUNT}
    # The rest is read shifted, so which rule it breaks first depends on the bytes.
    assert set(faults[:2] + faults[3 : most + 1]) <= {Fault.BODY_LENGTH, Fault.LIST_COUNT, Fault.VALUE}


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (173, b"\5"),  # family
        (173, b"\0"),
        (174 + 4, b"\1"),  # behind an IPv4 address
        (174, bytes(4)),  # 0.0.0.0
        (174, b"\xe0"),  # multicast
        (190, b"\0"),  # prefix length
        (190, b"\x21"),
        (173 + 18 + 1, bytes(10) + b"\xff\xff"),  # IPv4-mapped
        (173 + 2 * 18 + 1 + 17, b"\0\0"),  # port
        (41, b"\0"),  # suite
        (171, b"\2"),  # reclaim
        (42 + 8, bytes(4)),  # liveness interval
    ],
)
def test_values_a_welcome_may_not_hold(at: int, change: bytes) -> None:
    assert fault_of(welcome_with(at, change), DOWN) == Fault.VALUE


def test_a_suite_named_twice() -> None:
    assert fault_of(hello_with(58, b"\2\2"), UP) == Fault.VALUE
    assert fault_of(hello_with(58, b"\0"), UP) == Fault.VALUE
    assert fault_of(hello_with(58, b"\x77"), UP) is None  # a later client's suite is no fault


@pytest.mark.parametrize("of", fr.FRAMES, ids=lambda of: of.__name__)
def test_integers_out_of_range_are_refused(of: type[fr.Frame]) -> None:
    """Fields before the first list lie where the columns say; those with a lower bound refuse zero."""
    example = next(e for e in samples.EXAMPLES if type(e) is of)
    body, at = fr.encode([example])[5:], 0
    for name, kind in columns(of):
        if isinstance(kind, UInt) and kind.low == 1 and name != "version":
            zeroed = body[:at] + bytes(kind.min_bytes) + body[at + kind.min_bytes :]
            assert fault_of(b"\1" + frame(of.TYPE, zeroed), samples.direction_of(example)) == Fault.VALUE
        if kind.min_bytes != kind.max_bytes:
            break
        at += kind.min_bytes


# --- anything at all ---------------------------------------------------------------------------------------------

ways = st.sampled_from([UP, DOWN])


@given(st.binary(max_size=1400), ways)
def test_garbage(garbage: bytes, direction: fr.Direction) -> None:
    fault_of(garbage, direction)
    fault_of(b"\1" + garbage, direction)


@given(
    st.lists(st.tuples(st.integers(0, 17), st.integers(0, 3), st.binary(max_size=72)), max_size=18),
    st.binary(max_size=3),
    ways,
)
def test_garbage_in_well_formed_frames(
    parts: list[tuple[int, int, bytes]], tail: bytes, direction: fr.Direction
) -> None:
    fault_of(b"\1" + b"".join(frame(n, body, flags) for n, flags, body in parts) + tail, direction)


@settings(max_examples=300)
@given(
    samples.messages(),
    st.lists(st.tuples(st.integers(0, 1199), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_mutations(
    drawn: tuple[bytes, fr.Direction, tuple[fr.Frame, ...]], changes: list[tuple[int, int]]
) -> None:
    """A changed message is refused, or it is the encoding of what was read: nothing has two meanings."""
    message, direction, _ = drawn
    changed = bytearray(message)
    for at, value in changes:
        changed[at % len(changed)] = value
    if fault_of(bytes(changed), direction) is None:
        frames = fr.parse(bytes(changed), direction)
        same = bytes(changed).startswith(fr.encode(frames)) if frames else True
        odd = any(isinstance(f, fr.HelloOtherVersion) for f in frames)
        assert same or odd or has_ignorable(bytes(changed))


def has_ignorable(message: bytes) -> bool:
    """Whether a frame of a taken message has flags, which `encode` never sets."""
    at = 1
    while at < len(message) and message[at]:
        if message[at + 1]:
            return True
        at += fr.HEADER_BYTES + int.from_bytes(message[at + 2 : at + 4], "little")
    return False


@pytest.mark.parametrize("example", samples.EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_bit_flipped(example: fr.Frame) -> None:
    message, direction = fr.encode([example]), samples.direction_of(example)
    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        if fault_of(bytes(changed), direction) is None:
            assert fr.parse(bytes(changed), direction) != (example,) or bit == 16
