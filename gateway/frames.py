# SPDX-License-Identifier: Apache-2.0
"""Jump frames: what travels inside a transport message whose plaintext begins with 0x01 (protocol.md §2).

Rule: a message is parsed whole or refused whole. ``parse`` first walks all headers, then reads all bodies, and only
then returns; whatever the bytes are it raises FrameError and nothing else. ``encode`` makes only what ``parse`` takes.
Tables with offsets and an example of each frame: docs/protocol.md, compared with this file by a test.

Reasons are u16 numbers, those of ``gateway.core.reasons``; a leaf cannot import it, a test keeps them equal. A number
that the receiver does not know is no fault: the frame still says what it says, without the why.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Final

from gateway.framefields import (
    Fault,
    Flag,
    FrameError,
    Ip,
    ListOf,
    Nested,
    Raw,
    Record,
    UInt,
    check,
    column,
    pack,
    size_range_bytes,
    unpack,
)

# --- fixed by the protocol ---------------------------------------------------------------------------------------

MARK: Final = b"\1"
PROTOCOL_VERSION: Final = 1
HEADER_BYTES: Final = 4
MESSAGE_BYTES_MAX: Final = 1200
SESSION_ID_BYTES: Final = 16
INSTANCE_ID_BYTES: Final = 16
CHALLENGE_BYTES: Final = 8
NO_SESSION: Final = bytes(SESSION_ID_BYTES)
IGNORE_IF_UNKNOWN: Final = 0x01

# --- chosen ------------------------------------------------------------------------------------------------------

# A rebind answer is two frames; sixteen leave room for probes of every path, and bound what one message can cause.
FRAMES_MAX: Final = 16
# The largest MTU the configuration takes; a larger message would not fit a UDP datagram with header and tag.
PMTU_MESSAGE_BYTES_MAX: Final = 65_000
SUITES_MAX: Final = 8
INNER_ADDRESSES_MAX: Final = 8
ENDPOINTS_MAX: Final = 16
# A ping is matched by its token alone; eight random bytes cannot be guessed within its timeout.
TOKEN_BYTES: Final = 8

U8: Final = UInt(8)
U16: Final = UInt(16)
U32: Final = UInt(32)
U64: Final = UInt(64)
U8_NOT_0: Final = UInt(8, low=1)
NAMED_PATH: Final = U8_NOT_0
ATTEMPT: Final = UInt(64, low=1)
IP: Final = Ip()
FLAG: Final = Flag()


class Direction(enum.IntFlag):
    """Which way a message travels, or a frame may travel."""

    TO_GATEWAY = 1
    TO_CLIENT = 2
    BOTH = 3


class FrameType(enum.IntEnum):
    """The number of each frame; 0 ends the list. A number is never reused."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    PROBE = 4
    PROBE_ACK = 5
    CHALLENGE = 6
    RESPONSE = 7
    REATTACH_REQUEST = 8
    REATTACH_ACK = 9
    REATTACH_REJECT = 10
    SWITCH_ADVICE = 11
    PATH_CLOSE = 12
    PING = 13
    PONG = 14
    TERMINATE = 15


class Capability(enum.IntFlag):
    """Bits of HELLO and of the policy snapshot; a receiver ignores those it does not know."""

    PARTIAL_CHECKSUM = 1  # takes type 5 packets with flags bit0 (protocol.md §3)


class CarrierBit(enum.IntFlag):
    """Bits of the policy snapshot's ``carriers``."""

    UDP = 1
    TLS = 2


class RefuseReason(enum.IntEnum):
    """What a REFUSE of this version says."""

    POLICY_DENIED = 81
    RATE_LIMITED = 82
    INSTANCE_CONFLICT = 85
    SESSION_NOT_FOUND = 90
    SESSION_EXPIRED = 91
    VERSION = 96


class AdviceReason(enum.IntEnum):
    """What a SWITCH_ADVICE of this version says."""

    OPERATOR_SWITCH = 20
    NOT_BOUND = 84
    DRAIN = 97


# --- what frames are made of -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Record):
    """Where datagrams go to or come from: an address and a port, 19 bytes."""

    ip: IPv4Address | IPv6Address = column(IP)  # noqa: RUF009
    port: int = column(UInt(16, low=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerAddress(Record):
    """An address of the client's TUN device with its prefix length, 18 bytes."""

    ip: IPv4Address | IPv6Address = column(IP)  # noqa: RUF009
    prefix_bits: int = column(UInt(8, low=1, high=128))

    def __post_init__(self) -> None:
        check(self)
        if self.prefix_bits > self.ip.max_prefixlen:
            raise ValueError(f"prefix_bits = {self.prefix_bits} is too long for IPv{self.ip.version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot(Record):
    """The parameters of session.md §4 that both ends go by, as the gateway applies them to this session.

    Whether they make sense together is the session core's judgement. ``liveness_*`` are what both asked for agrees to
    (the larger interval, the smaller count), the gateway's probe budget included; ``capabilities`` the bits of the
    HELLO that the gateway has too.
    """

    max_lifetime_ms: int = column(U32)
    transport_lost_ttl_ms: int = column(U32)
    liveness_interval_ms: int = column(UInt(32, low=1))
    latency_enter_ms: int = column(U32)
    jitter_enter_ms: int = column(U32)
    persist_ms: int = column(U32)
    to_degraded_ms: int = column(U32)
    stability_window_ms: int = column(U32)
    cooldown_ms: int = column(U32)
    attempt_timeout_ms: int = column(U32)
    backoff_min_ms: int = column(U32)
    backoff_max_ms: int = column(U32)
    drain_ms: int = column(U32)
    candidate_ttl_ms: int = column(U32)
    half_life_ms: int = column(U32)
    rekey_after_ms: int = column(U32)
    reject_after_ms: int = column(U32)
    loss_enter_ppm: int = column(U32)
    loss_exit_ppm: int = column(U32)
    exit_ratio_ppm: int = column(U32)
    suppress_milli: int = column(U32)
    reuse_milli: int = column(U32)
    rekey_after_packets: int = column(U64)
    rekey_after_bytes: int = column(U64)
    capabilities: int = column(U64)
    max_switches_per_min: int = column(U16)
    reserved: int = column(U16)
    max_rebinds_per_min: int = column(U16)
    max_attempts: int = column(U16)
    control_rate_per_s: int = column(U16)
    control_burst: int = column(U16)
    liveness_misses: int = column(U8_NOT_0)
    latency_factor: int = column(U8)
    improvement_points: int = column(U8)
    max_candidates: int = column(U8)
    carriers: int = column(U8)
    reclaim: bool = column(FLAG)


# --- the frames --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Record):
    """Base of all frames."""

    TYPE: ClassVar[FrameType]
    DIRECTION: ClassVar[Direction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Frame):
    """The client's first message under every new keypair. ``suites`` in order of preference, by number.

    ``session_id`` is NO_SESSION for a new session; ``path_id`` names the socket it is sent from.
    """

    TYPE = FrameType.HELLO
    DIRECTION = Direction.TO_GATEWAY
    version: int = column(UInt(64, PROTOCOL_VERSION, PROTOCOL_VERSION), default=PROTOCOL_VERSION)
    capabilities: int = column(U64)
    instance_id: bytes = column(Raw(INSTANCE_ID_BYTES))
    session_id: bytes = column(Raw(SESSION_ID_BYTES))
    binding_epoch: int = column(U64)
    path_id: int = column(NAMED_PATH)
    suites: tuple[int, ...] = column(ListOf(U8_NOT_0, 1, SUITES_MAX, distinct=True))
    liveness_interval_ms: int = column(UInt(32, low=1))
    liveness_misses: int = column(U8_NOT_0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloOtherVersion(Frame):
    """The part of a HELLO that is the same in every version: enough to answer REFUSE(VERSION). The rest is not read."""

    TYPE = FrameType.HELLO
    DIRECTION = Direction.TO_GATEWAY
    version: int = column(U64)
    capabilities: int = column(U64)
    instance_id: bytes = column(Raw(INSTANCE_ID_BYTES))

    def __post_init__(self) -> None:
        check(self)
        if self.version == PROTOCOL_VERSION:
            raise ValueError("version is our own: this is a Hello")


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Frame):
    """The gateway's answer to a HELLO. ``bound_path_id`` 0 = no binding; ``observed`` is where the HELLO came from."""

    TYPE = FrameType.WELCOME
    DIRECTION = Direction.TO_CLIENT
    session_id: bytes = column(Raw(SESSION_ID_BYTES))
    binding_epoch: int = column(U64)
    bound_path_id: int = column(U8)
    state_version: int = column(U64)
    last_attempt_id: int = column(U64)
    suite: int = column(U8_NOT_0)
    policy: PolicySnapshot = column(Nested(PolicySnapshot, few=True))  # noqa: RUF009
    inner_addresses: tuple[InnerAddress, ...] = column(ListOf(Nested(InnerAddress), 0, INNER_ADDRESSES_MAX))
    endpoints: tuple[Endpoint, ...] = column(ListOf(Nested(Endpoint), 0, ENDPOINTS_MAX))
    observed: Endpoint = column(Nested(Endpoint))  # noqa: RUF009


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Frame):
    """The gateway does not serve this HELLO (named by its instance id). The same in every version."""

    TYPE = FrameType.REFUSE
    DIRECTION = Direction.TO_CLIENT
    instance_id: bytes = column(Raw(INSTANCE_ID_BYTES))
    reason: int = column(U16)
    retry_after_ms: int = column(U32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Frame):
    """Are you there on this path? With ``pmtu`` set it is alone in its message, which may be longer than 1200 bytes."""

    TYPE = FrameType.PROBE
    DIRECTION = Direction.BOTH
    path_id: int = column(NAMED_PATH)
    seq: int = column(U64)
    tx_time_ns: int = column(U64)
    tx_packets: int = column(U64)
    tx_bytes: int = column(U64)
    binding_epoch: int = column(U64)
    bound_path_id: int = column(U8)
    pmtu: bool = column(FLAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAck(Frame):
    """Yes: ``seq`` and the sender's own time back, and what arrived here on this path."""

    TYPE = FrameType.PROBE_ACK
    DIRECTION = Direction.BOTH
    path_id: int = column(NAMED_PATH)
    seq: int = column(U64)
    echo_time_ns: int = column(U64)
    hold_time_ns: int = column(U64)
    rx_packets: int = column(U64)
    rx_bytes: int = column(U64)
    binding_epoch: int = column(U64)
    bound_path_id: int = column(U8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge(Frame):
    """Prove that you are at the address this was sent to. ``path_id`` 0 = the sender does not know the path."""

    TYPE = FrameType.CHALLENGE
    DIRECTION = Direction.BOTH
    path_id: int = column(U8)
    rebind: bool = column(FLAG)
    nonce: bytes = column(Raw(CHALLENGE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Frame):
    """The bytes of the CHALLENGE, and the path_id of the socket where it came in."""

    TYPE = FrameType.RESPONSE
    DIRECTION = Direction.BOTH
    path_id: int = column(NAMED_PATH)
    nonce: bytes = column(Raw(CHALLENGE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReattachRequest(Frame):
    """Bind the session to this path. ``attempt_id`` grows over the session's whole life, from 1."""

    TYPE = FrameType.REATTACH_REQUEST
    DIRECTION = Direction.TO_GATEWAY
    attempt_id: int = column(ATTEMPT)
    binding_epoch: int = column(U64)
    path_id: int = column(NAMED_PATH)
    reason: int = column(U16)
    forced: bool = column(FLAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReattachAck(Frame):
    """Done: bound to ``path_id`` at the new epoch."""

    TYPE = FrameType.REATTACH_ACK
    DIRECTION = Direction.TO_CLIENT
    attempt_id: int = column(ATTEMPT)
    binding_epoch: int = column(U64)
    path_id: int = column(NAMED_PATH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReattachReject(Frame):
    """Not done, and why; the gateway's current epoch and when to ask again."""

    TYPE = FrameType.REATTACH_REJECT
    DIRECTION = Direction.TO_CLIENT
    attempt_id: int = column(ATTEMPT)
    reason: int = column(U16)
    binding_epoch: int = column(U64)
    retry_after_ms: int = column(U32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchAdvice(Frame):
    """The gateway asks for a REATTACH_REQUEST, by the path preferred (0 = whichever is best)."""

    TYPE = FrameType.SWITCH_ADVICE
    DIRECTION = Direction.TO_CLIENT
    reason: int = column(U16)
    preferred_path_id: int = column(U8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathClose(Frame):
    """The sender gives this path up."""

    TYPE = FrameType.PATH_CLOSE
    DIRECTION = Direction.BOTH
    path_id: int = column(NAMED_PATH)
    reason: int = column(U16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Frame):
    """`jvpn ping`; the answer is a Pong with the same token."""

    TYPE = FrameType.PING
    DIRECTION = Direction.BOTH
    token: bytes = column(Raw(TOKEN_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Frame):
    """The token of the Ping."""

    TYPE = FrameType.PONG
    DIRECTION = Direction.BOTH
    token: bytes = column(Raw(TOKEN_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate(Frame):
    """The session is over; its keys are erased next."""

    TYPE = FrameType.TERMINATE
    DIRECTION = Direction.BOTH
    reason: int = column(U16)


FRAMES: Final[tuple[type[Frame], ...]] = (
    Hello,
    Welcome,
    Refuse,
    Probe,
    ProbeAck,
    Challenge,
    Response,
    ReattachRequest,
    ReattachAck,
    ReattachReject,
    SwitchAdvice,
    PathClose,
    Ping,
    Pong,
    Terminate,
)
# These travel as type 4, before there is a control key for both; all others as type 5 control (protocol.md §2).
OPENING_TYPES: Final = frozenset({FrameType.HELLO, FrameType.WELCOME, FrameType.REFUSE})

_BY_TYPE: Final[dict[int, type[Frame]]] = {frame.TYPE: frame for frame in FRAMES}
_BODY_BYTES: Final[dict[int, tuple[int, int]]] = {frame.TYPE: size_range_bytes(frame) for frame in FRAMES}
# A HELLO of another version can have any length from the part that every version shares.
_BODY_BYTES[FrameType.HELLO] = (
    size_range_bytes(HelloOtherVersion)[0],
    MESSAGE_BYTES_MAX - len(MARK) - HEADER_BYTES,
)
_PMTU_BYTE: Final = size_range_bytes(Probe)[0] - 1


# --- encode ------------------------------------------------------------------------------------------------------


def encode(frames: Sequence[Frame], pad_to_bytes: int = 0) -> bytes:
    """Return one plaintext: 0x01, the frames, and zeros up to ``pad_to_bytes`` (never shortened to it).

    ValueError: no frame or over 16, frames that never travel the same way, over 1200 bytes (65,000 for a PMTU probe).
    """
    if not 1 <= len(frames) <= FRAMES_MAX:
        raise ValueError(f"a message holds 1..{FRAMES_MAX} frames, not {len(frames)}")
    direction = Direction.BOTH
    for frame in frames:
        direction &= frame.DIRECTION
    if not direction:
        raise ValueError("these frames do not travel the same way")
    message = MARK + b"".join(map(encode_frame, frames))
    first = frames[0]
    alone = len(frames) == 1 and isinstance(first, Probe) and first.pmtu
    limit = PMTU_MESSAGE_BYTES_MAX if alone else MESSAGE_BYTES_MAX
    if max(len(message), pad_to_bytes) > limit:
        raise ValueError(
            f"{max(len(message), pad_to_bytes)} bytes are more than a message may have ({limit})"
        )
    return message.ljust(pad_to_bytes, b"\0")


def encode_frame(frame: Frame) -> bytes:
    """One frame with its header, flags zero."""
    body = pack(frame)
    return bytes((frame.TYPE, 0)) + len(body).to_bytes(2, "little") + body


# --- parse -------------------------------------------------------------------------------------------------------


def parse(plaintext: bytes, direction: Direction) -> tuple[Frame, ...]:
    """Return every known frame of a message that travelled in ``direction``, in order; FrameError otherwise.

    Unknown frames that say "ignore me" are left out, so the result can be empty.
    """
    if direction not in (Direction.TO_GATEWAY, Direction.TO_CLIENT):
        raise ValueError("a message travels one way")
    bodies = list(_walk(plaintext, direction))
    return tuple(_read(number, body) for number, body in bodies)


def _walk(message: bytes, direction: Direction) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of each known frame; csrc/src/frames.c makes the same checks in the same order."""
    if not message.startswith(MARK):
        raise FrameError(Fault.NOT_FRAMES, "the first byte is not 0x01")
    if len(message) > PMTU_MESSAGE_BYTES_MAX:
        raise FrameError(Fault.TOO_LONG, f"{len(message)} bytes")
    at, count, pmtu = len(MARK), 0, False
    while at < len(message) and message[at]:
        if count == FRAMES_MAX:
            raise FrameError(Fault.TOO_MANY, f"more than {FRAMES_MAX} frames")
        number, flags, body = _next(message, at)
        at, count = at + HEADER_BYTES + len(body), count + 1
        if number in _BY_TYPE:
            _check_head(number, flags, len(body), direction)
            pmtu = number == FrameType.PROBE and body[_PMTU_BYTE] == 1
            yield number, body
        elif not flags & IGNORE_IF_UNKNOWN:
            raise FrameError(Fault.UNKNOWN_TYPE, f"type {number}")
    _check_end(message, at, count, pmtu)


def _next(message: bytes, at: int) -> tuple[int, int, bytes]:
    start = at + HEADER_BYTES
    end = start + int.from_bytes(message[at + 2 : start], "little")
    if start > len(message) or end > len(message):
        raise FrameError(Fault.TRUNCATED, f"the frame at {at} goes beyond the message")
    return message[at], message[at + 1], message[start:end]


def _check_head(number: int, flags: int, body_bytes: int, direction: Direction) -> None:
    if not _BY_TYPE[number].DIRECTION & direction:
        raise FrameError(Fault.WRONG_DIRECTION, f"type {number}")
    if flags & ~IGNORE_IF_UNKNOWN:
        raise FrameError(Fault.RESERVED_FLAGS, f"type {number}, flags {flags:#04x}")
    least, most = _BODY_BYTES[number]
    if not least <= body_bytes <= most:
        raise FrameError(Fault.BODY_LENGTH, f"type {number}, {body_bytes} bytes")


def _check_end(message: bytes, at: int, count: int, pmtu: bool) -> None:
    if any(message[at:]):
        raise FrameError(Fault.PADDING, "it is not all zero")
    if not count:
        raise FrameError(Fault.NO_FRAME, "nothing but padding")
    if len(message) > MESSAGE_BYTES_MAX and not (pmtu and count == 1):
        raise FrameError(Fault.TOO_LONG, f"{len(message)} bytes")


def _read(number: int, body: bytes) -> Frame:
    of = _BY_TYPE[number]
    if of is Hello and int.from_bytes(body[:8], "little") != PROTOCOL_VERSION:
        return unpack(HelloOtherVersion, body)[0]
    frame, end = unpack(of, body)
    if end != len(body):
        raise FrameError(Fault.BODY_LENGTH, f"type {number}, {len(body) - end} bytes too many")
    return frame
