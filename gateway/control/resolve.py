# SPDX-License-Identifier: Apache-2.0
"""Names of endpoints to addresses, without blocking the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from gateway.control.configfields import Endpoint as HostPort
from gateway.errors import HostError


async def resolve(endpoint: HostPort) -> list[tuple[str, int]]:
    """Addresses and port of an endpoint in the resolver's order. HostError when the name is not known."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise HostError(f"cannot resolve {endpoint.host}: {error.strerror or error}") from error
    return [(str(info[4][0]), endpoint.port) for info in found]


async def resolve_first(endpoints: Sequence[HostPort]) -> list[tuple[str, int]]:
    """The addresses of all endpoints that resolve, in order. HostError with the last reason when none does."""
    found: list[tuple[str, int]] = []
    reason = HostError("no endpoint is configured")
    for endpoint in endpoints:
        try:
            found += await resolve(endpoint)
        except HostError as error:
            reason = error
    if not found:
        raise reason
    return found
