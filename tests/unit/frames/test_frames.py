# SPDX-License-Identifier: Apache-2.0
"""Round trips, sizes, and what a frame may not hold."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import frames as fr
from gateway.core.reasons import Reason
from gateway.framefields import Fault, FrameError, ListOf, UInt, columns, size_range_bytes
from tests.unit.frames import samples

BY_NAME = {type(frame).__name__: frame for frame in samples.EXAMPLES}


def test_every_frame_has_a_type_and_an_example() -> None:
    assert {frame.TYPE for frame in fr.FRAMES} == set(fr.FrameType)
    assert [type(example) for example in samples.EXAMPLES] == list(fr.FRAMES)


@pytest.mark.parametrize("of", fr.FRAMES, ids=lambda of: of.__name__)
def test_round_trip(of: type[fr.Frame]) -> None:
    @given(samples.records(of), st.integers(0, fr.MESSAGE_BYTES_MAX))
    def check(frame: fr.Frame, pad_to_bytes: int) -> None:
        message = fr.encode([frame], pad_to_bytes)
        assert message[0] == 1 and pad_to_bytes <= len(message) <= fr.MESSAGE_BYTES_MAX
        (back,) = fr.parse(message, samples.direction_of(frame))
        assert back == frame and type(back) is of
        assert fr.encode([back], pad_to_bytes) == message

    check()


@given(samples.messages())
def test_round_trip_of_several_frames(drawn: tuple[bytes, fr.Direction, tuple[fr.Frame, ...]]) -> None:
    message, direction, frames = drawn
    assert fr.parse(message, direction) == frames


def test_hello_and_welcome_fit_at_their_longest() -> None:
    head = len(fr.MARK) + fr.HEADER_BYTES
    assert [size_range_bytes(of) for of in (fr.Hello, fr.Welcome)] == [(64, 71), (193, 641)]
    assert size_range_bytes(fr.Hello)[1] + head <= fr.MESSAGE_BYTES_MAX
    # The longest of both still leave WireGuard's least IPv6 MTU of 1280 its headers (40 + 8 + 16) and tag.
    assert size_range_bytes(fr.Welcome)[1] + head + 80 <= 1280
    assert fr.MESSAGE_BYTES_MAX + 40 + 8 + 16 + 16 <= 1280
    full = dataclasses.replace(
        samples.WELCOME,
        inner_addresses=samples.WELCOME.inner_addresses * 4,
        endpoints=(samples.V4,) * fr.ENDPOINTS_MAX,
    )
    assert len(fr.encode([full])) == 641 + head


def test_an_answer_to_a_rebind_challenge_is_one_datagram() -> None:
    frames = [BY_NAME["Response"], BY_NAME["ReattachRequest"]]
    assert fr.parse(fr.encode(frames), fr.Direction.TO_GATEWAY) == tuple(frames)


def test_padding() -> None:
    ping = BY_NAME["Ping"]
    bare = fr.encode([ping])
    assert fr.encode([ping], 5) == bare
    assert fr.encode([ping], 1200) == bare + bytes(1200 - len(bare))
    with pytest.raises(ValueError, match="1201 bytes"):
        fr.encode([ping], 1201)


def test_a_pmtu_probe_alone_may_be_longer() -> None:
    probe = dataclasses.replace(BY_NAME["Probe"], pmtu=True)
    for size in (1201, 1400, 9000, fr.PMTU_MESSAGE_BYTES_MAX):
        message = fr.encode([probe], size)
        assert len(message) == size
        assert fr.parse(message, fr.Direction.TO_CLIENT) == (probe,)
    for frames in ([probe, BY_NAME["Ping"]], [BY_NAME["Ping"], probe], [BY_NAME["Probe"]]):
        with pytest.raises(ValueError, match="1201 bytes"):
            fr.encode(frames, 1201)
    with pytest.raises(ValueError, match="65001"):
        fr.encode([probe], fr.PMTU_MESSAGE_BYTES_MAX + 1)


def test_encode_refuses_what_parse_would() -> None:
    with pytest.raises(ValueError, match="not 0"):
        fr.encode([])
    with pytest.raises(ValueError, match="not 17"):
        fr.encode([BY_NAME["Ping"]] * 17)
    with pytest.raises(ValueError, match="same way"):
        fr.encode([BY_NAME["Hello"], BY_NAME["Refuse"]])
    with pytest.raises(ValueError, match="1200"):
        fr.encode([samples.WELCOME] * 5)


INTEGERS = [
    (of, name, kind)
    for of in (*fr.FRAMES, fr.PolicySnapshot, fr.Endpoint)
    for name, kind in columns(of)
    if isinstance(kind, UInt)
]


@pytest.mark.parametrize(("of", "name", "kind"), INTEGERS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_integers_out_of_range_cannot_be_made(of: type[fr.Frame], name: str, kind: UInt) -> None:
    known = {**BY_NAME, "PolicySnapshot": samples.POLICY, "Endpoint": samples.V4}
    for value in (kind.low - 1, kind.high + 1):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(known[of.__name__], **{name: value})
    for wrong in (True, "1", None, 1.0):
        with pytest.raises(TypeError, match=name):
            dataclasses.replace(known[of.__name__], **{name: wrong})


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        ("Hello", "instance_id", bytes(15)),
        ("Hello", "session_id", bytes(17)),
        ("Hello", "suites", ()),
        ("Hello", "suites", (1, 2, 1)),
        ("Hello", "suites", (0,)),
        ("Hello", "suites", tuple(range(1, 10))),
        ("Welcome", "inner_addresses", samples.WELCOME.inner_addresses * 5),
        ("Welcome", "endpoints", (samples.V4,) * 17),
        ("Challenge", "nonce", bytes(7)),
        ("Ping", "token", b""),
    ],
)
def test_values_of_the_wrong_size_cannot_be_made(frame: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(BY_NAME[frame], **{field: value})


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        ("Hello", "instance_id", bytearray(16)),
        ("Hello", "suites", [1]),
        ("Welcome", "policy", None),
        ("Welcome", "observed", "192.0.2.1:51820"),
        ("Welcome", "endpoints", (1,)),
        ("Probe", "pmtu", 1),
        ("Challenge", "rebind", 0),
    ],
)
def test_values_of_the_wrong_type_cannot_be_made(frame: str, field: str, value: object) -> None:
    with pytest.raises(TypeError, match=field):
        dataclasses.replace(BY_NAME[frame], **{field: value})


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:192.0.2.1", "fe80::1%eth0"]
)
def test_addresses_that_name_no_host_or_have_two_forms(text: str) -> None:
    with pytest.raises(ValueError, match="ip is"):
        fr.Endpoint(ip=ip_address(text), port=1)


def test_prefix_lengths() -> None:
    assert fr.InnerAddress(ip=IPv4Address("10.0.0.1"), prefix_bits=32).prefix_bits == 32
    assert fr.InnerAddress(ip=IPv6Address("fd00::1"), prefix_bits=128).prefix_bits == 128
    for text, bits in (("10.0.0.1", 33), ("10.0.0.1", 0), ("fd00::1", 129)):
        with pytest.raises(ValueError, match="prefix_bits"):
            fr.InnerAddress(ip=ip_address(text), prefix_bits=bits)


def test_lists_are_bounded() -> None:
    lists = {name: kind for of in fr.FRAMES for name, kind in columns(of) if isinstance(kind, ListOf)}
    assert {name: kind.high for name, kind in lists.items()} == {
        "suites": 8,
        "inner_addresses": 8,
        "endpoints": 16,
    }


def test_frames_are_small_and_frozen() -> None:
    for frame in samples.EXAMPLES:
        assert not hasattr(frame, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frame, columns(type(frame))[0][0], 1)


def test_reason_numbers_are_those_of_the_core() -> None:
    """A name that both have has one number; a number that only the wire has is taken by nothing else."""
    core = {reason.name: reason.value for reason in Reason}
    for reason in (*fr.RefuseReason, *fr.AdviceReason):
        assert core.get(reason.name, reason.value) == reason.value
        assert {name for name, value in core.items() if value == reason.value} <= {reason.name}


def test_every_reason_of_the_core_fits() -> None:
    for reason in Reason:
        frame = fr.Terminate(reason=reason)
        assert fr.parse(fr.encode([frame]), fr.Direction.TO_CLIENT) == (frame,)


def test_a_hello_of_another_version_can_be_refused() -> None:
    later = fr.HelloOtherVersion(version=2, capabilities=3, instance_id=samples.INSTANCE)
    body = fr.encode([later])[5:]
    for more in (0, 1, 17, 100, 1200 - 5 - 32):
        grown = body + bytes(range(256))[:1] * more
        message = b"\1\1\0" + len(grown).to_bytes(2, "little") + grown
        assert fr.parse(message, fr.Direction.TO_GATEWAY) == (later,)
    with pytest.raises(ValueError, match="our own"):
        dataclasses.replace(later, version=1)


def test_what_travels_as_type_4() -> None:
    assert {of.__name__ for of in fr.FRAMES if of.TYPE in fr.OPENING_TYPES} == {"Hello", "Welcome", "Refuse"}


def test_a_fault_is_a_counter_name() -> None:
    error = FrameError(Fault.TOO_MANY, "17")
    assert error.fault == "too_many" and str(error) == "too_many: 17"
