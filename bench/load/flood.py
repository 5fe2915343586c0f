# SPDX-License-Identifier: Apache-2.0
"""A flood of initiations from spoofed sources (flood.c).

Half of them, or whatever share is asked for, have a valid mac1: who knows the gateway's public key can make it.
Behind it everything is random, so the gateway finds out only by its curve operations, unless it asks for cookies first.
"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any, Final

from bench.load.population import GATEWAYS, Population
from bench.load.scene import FOLDER, Scene
from gateway import wire
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Identity, PeerKeys
from tests.net import cprogram
from tests.net.lab import LabError

# So many different messages; none is taken twice in a row but by chance.
POOL: Final = 4096
MAC_BYTES: Final = 16
FOREVER_S: Final = 7200
END_S: Final = 10.0


def messages(population: Population, valid_share: float) -> list[bytes]:
    """Whole initiations that nobody made, the share of them with a valid mac1."""
    chance = random.Random(population.seed)
    keys = PeerKeys(Identity(population.private_key(population.count)), population.gateway.public)
    found = []
    for number in range(POOL):
        body = wire.INITIATION_HEAD + chance.randbytes(wire.INITIATION_BODY_BYTES - 4)
        whole = add_macs(body, keys.mac1_key, None)
        if number >= valid_share * POOL:
            whole = whole[: -MAC_BYTES * 2] + chance.randbytes(MAC_BYTES) + bytes(MAC_BYTES)
        found.append(whole)
    return found


class Flood:
    """The program while it runs, outside of everything that the gateway knows."""

    def __init__(
        self, scene: Scene, population: Population, port: int, rate_per_s: float, valid_share: float
    ) -> None:
        pool = scene.lab.tmp / "flood.pool"
        pool.write_bytes(b"".join(messages(population, valid_share)))
        numbers = (GATEWAYS[0], port, max(1, round(rate_per_s)), FOREVER_S, population.seed)
        argv = [str(flood_binary()), str(pool), *map(str, numbers)]
        self._proc = scene.outside.spawn(argv, "flood")
        self._proc.wait_line('"ready"')

    def stop(self) -> dict[str, Any]:
        """What it sent."""
        self._proc.signal(signal.SIGTERM)
        if self._proc.wait(END_S):
            raise LabError(f"the flood: {self._proc.stderr.strip()}")
        found: dict[str, Any] = json.loads(self._proc.stdout.splitlines()[-1])
        del found["done"]
        return {**found, "per_s": found["sent"] / found["seconds"]}


def flood_binary() -> Path:
    """Compiled on first use."""
    return cprogram.build("flood", (FOLDER / "flood.c",), headers=(FOLDER / "flows.h",))
