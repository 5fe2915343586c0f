# SPDX-License-Identifier: Apache-2.0
"""The kinds of field that jump frames are made of: how each is checked, written and read.

Rule: a dataclass field declared with ``column(kind)`` is the layout; order and width come from nowhere else. A record
checks itself when it is made, so one with an impossible value can neither be sent nor come out of a message. Reading
trusts no length: every kind looks at what is left before it reads. Integers are little endian (protocol.md §2).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeVar

from gateway.errors import ProtocolError

R = TypeVar("R", bound="Record")

_FAMILY_BYTES: Final = {4: 4, 6: 16}
_IP_BYTES: Final = 16
_FEW: Final = 64


class Fault(enum.StrEnum):
    """Why a message was refused; the value names its counter. C's jv_frame_fault is -1, -2, ... in this order."""

    NOT_FRAMES = "not_frames"  # empty, or the first byte is not 0x01
    TOO_LONG = "too_long"  # over 1200 bytes and not a PMTU probe
    NO_FRAME = "no_frame"  # nothing but padding
    TOO_MANY = "too_many"  # more than 16 frames
    TRUNCATED = "truncated"  # a header or a body goes beyond the message
    UNKNOWN_TYPE = "unknown_type"  # and flags bit0 does not say to ignore it
    WRONG_DIRECTION = "wrong_direction"
    RESERVED_FLAGS = "reserved_flags"  # bits 1..7 of the flags of a known frame
    BODY_LENGTH = "body_length"  # the body is not as long as its type says
    PADDING = "padding"  # not all zero
    LIST_COUNT = "list_count"  # more or fewer entries than the list may have
    VALUE = "value"  # a field holds what it never may


class FrameError(ProtocolError):
    """A message of jump frames is refused as a whole; ``fault`` says by which rule, for the counter."""

    def __init__(self, fault: Fault, detail: str) -> None:
        self.fault = fault
        super().__init__(f"{fault}: {detail}")


class Kind(ABC):
    """One kind of field. ``min_bytes`` and ``max_bytes`` are its size on the wire."""

    __slots__ = ()
    min_bytes: int
    max_bytes: int

    @abstractmethod
    def check(self, name: str, value: Any) -> None:
        """ValueError (TypeError for a wrong type) unless ``value`` can be sent."""

    @abstractmethod
    def pack(self, value: Any) -> bytes:
        """The bytes of a value that was checked."""

    @abstractmethod
    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        """The value at ``at`` and where the next field begins; FrameError or ValueError."""


class UInt(Kind):
    """An unsigned integer of 8, 16, 32 or 64 bits within low..high."""

    __slots__ = ("high", "low", "max_bytes", "min_bytes")

    def __init__(self, bits: int, low: int = 0, high: int | None = None) -> None:
        self.min_bytes = self.max_bytes = bits // 8
        self.low, self.high = low, (1 << bits) - 1 if high is None else high

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int")
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} = {value} is outside {self.low}..{self.high}")

    def pack(self, value: Any) -> bytes:
        packed: bytes = value.to_bytes(self.min_bytes, "little")
        return packed

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        return int.from_bytes(_take(body, at, self.min_bytes), "little"), at + self.min_bytes


class Flag(Kind):
    """A u8 of flags of which only bit0 exists: 0 or 1."""

    __slots__ = ()
    min_bytes = max_bytes = 1

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool")

    def pack(self, value: Any) -> bytes:
        return b"\1" if value else b"\0"

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        byte = _take(body, at, 1)[0]
        if byte > 1:
            raise FrameError(Fault.VALUE, f"flags {byte:#04x} have reserved bits")
        return byte == 1, at + 1


class Raw(Kind):
    """Exactly ``size_bytes`` opaque bytes."""

    __slots__ = ("max_bytes", "min_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.min_bytes = self.max_bytes = size_bytes

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes")
        if len(value) != self.min_bytes:
            raise ValueError(f"{name} has {len(value)} bytes, not {self.min_bytes}")

    def pack(self, value: Any) -> bytes:
        return bytes(value)

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        return _take(body, at, self.min_bytes), at + self.min_bytes


class Ip(Kind):
    """u8 family (4 or 6) and 16 bytes; an IPv4 address comes first in them and zeros follow.

    An address has one form only: no IPv4-mapped IPv6, no zone, and never the unspecified or a multicast address.
    """

    __slots__ = ()
    min_bytes = max_bytes = 1 + _IP_BYTES

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, IPv4Address | IPv6Address):
            raise TypeError(f"{name} must be an IPv4Address or an IPv6Address")
        if value.is_unspecified or value.is_multicast:
            raise ValueError(f"{name} is not the address of one host")
        if isinstance(value, IPv6Address) and (value.ipv4_mapped is not None or value.scope_id is not None):
            raise ValueError(f"{name} is IPv4-mapped or has a zone")

    def pack(self, value: Any) -> bytes:
        packed: bytes = value.packed
        return bytes((value.version,)) + packed.ljust(_IP_BYTES, b"\0")

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        family, *_ = packed = _take(body, at, self.min_bytes)
        size = _FAMILY_BYTES.get(family)
        if size is None or any(packed[1 + size :]):
            raise FrameError(Fault.VALUE, f"address of family {family} is malformed")
        address = packed[1 : 1 + size]
        return IPv4Address(address) if family == 4 else IPv6Address(address), at + self.min_bytes


class Nested(Kind):
    """Another record, written in place. ``few``: the same ones again and again, so their bytes are kept."""

    __slots__ = ("_pack", "max_bytes", "min_bytes", "of")

    def __init__(self, of: type[Record], *, few: bool = False) -> None:
        self.of = of
        self.min_bytes, self.max_bytes = size_range_bytes(of)
        self._pack = functools.lru_cache(maxsize=_FEW)(pack) if few else pack

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, self.of):
            raise TypeError(f"{name} must be {self.of.__name__}")

    def pack(self, value: Any) -> bytes:
        return self._pack(value)

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        return unpack(self.of, body, at)


class ListOf(Kind):
    """A u8 count within low..high and that many entries; a tuple. ``distinct``: no entry twice."""

    __slots__ = ("distinct", "high", "item", "low", "max_bytes", "min_bytes")

    def __init__(self, item: Kind, low: int, high: int, *, distinct: bool = False) -> None:
        self.item, self.low, self.high, self.distinct = item, low, high, distinct
        self.min_bytes, self.max_bytes = 1 + low * item.min_bytes, 1 + high * item.max_bytes

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, tuple):
            raise TypeError(f"{name} must be a tuple")
        if not self.low <= len(value) <= self.high:
            raise ValueError(f"{name} has {len(value)} entries, not {self.low}..{self.high}")
        if self.distinct and len(set(value)) != len(value):
            raise ValueError(f"{name} names one entry twice")
        for entry in value:
            self.item.check(name, entry)

    def pack(self, value: Any) -> bytes:
        return bytes((len(value),)) + b"".join(self.item.pack(entry) for entry in value)

    def unpack(self, body: bytes, at: int) -> tuple[Any, int]:
        count, at = _take(body, at, 1)[0], at + 1
        if not self.low <= count <= self.high:
            raise FrameError(Fault.LIST_COUNT, f"{count} entries, not {self.low}..{self.high}")
        entries = []
        for _ in range(count):
            entry, at = self.item.unpack(body, at)
            entries.append(entry)
        return tuple(entries), at


def column(kind: Kind, default: Any = dataclasses.MISSING) -> Any:
    """Declare a dataclass field that travels as ``kind``."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of everything made of columns. Making one with a value it may not hold is a ValueError or TypeError."""

    def __post_init__(self) -> None:
        check(self)


# One entry per record class of the program.
_COLUMNS: Final[dict[type[Record], tuple[tuple[str, Kind], ...]]] = {}


def columns(of: type[Record]) -> tuple[tuple[str, Kind], ...]:
    """(name, kind) of each field in wire order."""
    if of not in _COLUMNS:
        _COLUMNS[of] = tuple((f.name, f.metadata["kind"]) for f in dataclasses.fields(of))
    return _COLUMNS[of]


def size_range_bytes(of: type[Record]) -> tuple[int, int]:
    """The least and the greatest size of a record on the wire."""
    kinds = [kind for _, kind in columns(of)]
    return sum(kind.min_bytes for kind in kinds), sum(kind.max_bytes for kind in kinds)


def check(record: Record) -> None:
    """ValueError or TypeError for the first field that holds what it may not."""
    for name, kind in columns(type(record)):
        kind.check(name, getattr(record, name))


def pack(record: Record) -> bytes:
    """The bytes of a record."""
    return b"".join(kind.pack(getattr(record, name)) for name, kind in columns(type(record)))


def unpack(of: type[R], body: bytes, at: int = 0) -> tuple[R, int]:
    """The record at ``at`` and where it ends; FrameError when it is malformed or the body is too short."""
    values: dict[str, Any] = {}
    for name, kind in columns(of):
        values[name], at = kind.unpack(body, at)
    try:
        return of(**values), at
    except ValueError as error:
        raise FrameError(Fault.VALUE, str(error)) from None


def _take(body: bytes, at: int, size_bytes: int) -> bytes:
    taken = body[at : at + size_bytes]
    if len(taken) != size_bytes:
        raise FrameError(Fault.BODY_LENGTH, "the body ends inside a field")
    return taken
