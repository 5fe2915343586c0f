# SPDX-License-Identifier: Apache-2.0
"""A datagram is a handshake message only with the exact head and size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire

SIZES = {1: 148, 2: 92, 3: 64}


def message(kind: int, size: int) -> bytes:
    return bytes((kind, 0, 0, 0)) + bytes(i & 0xFF for i in range(4, size))


@pytest.mark.parametrize("kind", SIZES)
def test_types_by_exact_size(kind: int) -> None:
    for size in range(200):
        expected = kind if size == SIZES[kind] else 0
        assert wire.message_type(message(kind, 200)[:size]) == expected


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_reserved_bytes_must_be_zero(kind: int, offset: int) -> None:
    whole = bytearray(message(kind, SIZES[kind]))
    whole[offset] = 1
    assert wire.message_type(bytes(whole)) == 0
    assert not wire.names_handshake(bytes(whole))


@given(st.binary(max_size=200))
def test_garbage_is_type_zero_or_exact(datagram: bytes) -> None:
    kind = wire.message_type(datagram)
    assert kind == 0 or (datagram[:4] == bytes((kind, 0, 0, 0)) and len(datagram) == SIZES[kind])


def test_transport_and_unknown_types_are_not_handshakes() -> None:
    for kind in (0, 4, 5, 255):
        assert wire.message_type(message(kind, 148)) == 0


def test_fields() -> None:
    initiation, response, cookie = (message(kind, SIZES[kind]) for kind in (1, 2, 3))
    assert wire.sender_index(initiation) == wire.sender_index(response) == 0x07060504
    assert wire.receiver_index(response) == 0x0B0A0908
    assert wire.receiver_index(cookie) == 0x07060504
    assert wire.mac1(initiation) == bytes(range(116, 132))
    assert wire.mac2(initiation) == bytes(range(132, 148))
    assert wire.mac1(response) == bytes(range(60, 76))
    assert wire.mac2(response) == bytes(range(76, 92))
    assert wire.before_mac1(response) == response[:60]
    assert wire.before_mac2(response) == response[:76]


def test_transport_header() -> None:
    header = wire.transport_header(0x01020304, 0x1122334455667788)
    assert header.hex() == "04000000" + "04030201" + "8877665544332211"
    assert wire.receiver_index(header) == 0x01020304


@pytest.mark.parametrize("index", [-1, 1 << 32])
def test_index_must_fit(index: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        wire.index_bytes(index)
