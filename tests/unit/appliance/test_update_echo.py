# SPDX-License-Identifier: Apache-2.0
"""The echo of the self-test, as the kernel would see and answer it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from appliance.update import echo
from appliance.update.echo import Address

PAIRS: list[tuple[Address, Address]] = [
    (IPv4Address("10.8.0.2"), IPv4Address("10.8.0.1")),
    (IPv6Address("fd08::2"), IPv6Address("fd08::1")),
]


def answered(packet: bytes) -> bytes:
    """What a kernel makes of a request: ends swapped, type changed, sums right."""
    if packet[0] >> 4 == 4:
        assert echo.checksum(packet[:20]) == 0 and echo.checksum(packet[20:]) == 0
        assert (packet[9], packet[20]) == (1, 8)
        body = b"\0\0\0\0" + packet[24:]
        message = body[:2] + echo.checksum(body).to_bytes(2, "big") + body[4:]
        return packet[:12] + packet[16:20] + packet[12:16] + message
    pseudo = packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert echo.checksum(pseudo + packet[40:]) == 0
    assert (packet[6], packet[40]) == (58, 128)
    body = b"\x81\0\0\0" + packet[44:]
    message = body[:2] + echo.checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    return packet[:8] + packet[24:40] + packet[8:24] + message


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_the_answer_is_known(ours: Address, theirs: Address, payload: bytes) -> None:
    answer = answered(echo.request(ours, theirs, payload))
    assert echo.is_reply(answer, ours, theirs, payload)
    assert echo.is_reply(answer + bytes(16), ours, theirs, payload), "with the tunnel's padding"


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_nothing_else_is(ours: Address, theirs: Address) -> None:
    request = echo.request(ours, theirs, b"payload")
    answer = answered(request)
    assert not echo.is_reply(request, ours, theirs, b"payload")
    assert not echo.is_reply(answer, theirs, ours, b"payload")
    assert not echo.is_reply(answer, ours, theirs, b"another")
    for length in range(len(answer)):
        assert not echo.is_reply(answer[:length], ours, theirs, b"payload")


def test_the_sum_is_that_of_rfc_1071() -> None:
    assert echo.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
