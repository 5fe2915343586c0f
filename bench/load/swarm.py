# SPDX-License-Identifier: Apache-2.0
"""The clients of a load test, all in one process: ``python -m bench.load.swarm --sessions N --seed S``.

    stdin   {"id": 1, "do": "attach", "from": 0, "count": 1000, "rate_per_s": 500}
    stdout  {"progress": {"id": 1, …}} every second, then {"id": 1, "attached": 1000, "failed": 0, …}

It runs where both uplinks' ranges and the inside range are local addresses (see population.py). Without a line of
stdin it does what clients do: probe, renew keys, move to the path that works.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from bench.load.crowd import NO_QUALITY, Crowd
from bench.load.orders import DONE, Order
from bench.load.population import Population
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control import clock
from gateway.control.peers import Peer
from gateway.control.sessions import Live
from gateway.core.policy import Policy
from gateway.frames import Welcome

# An initiation costs 0.15 ms, so a turn of the loop is held for 1 ms by those that are due.
STARTS_PER_TURN: Final = 8
# Keys of two curve operations, 0.1 ms.
KEYS_PER_TURN: Final = 1000
LOOKS_PER_TURN: Final = 2000
PROGRESS_S: Final = 1.0
COMMAND_BYTES_MAX: Final = 1 << 16


def say(document: dict[str, Any]) -> None:
    """One line of output, at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


class Swarm:
    """The crowd on the running loop, and the orders that it carries out."""

    def __init__(self, crowd: Crowd, seed: int) -> None:
        self._crowd, self._seed = crowd, seed
        self._orders: list[Order] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._stopped = asyncio.Event()
        self._looks: set[asyncio.Task[None]] = set()
        crowd.tunnel.exchange.on_complete = self._completed
        crowd.keeper.greeting.on_welcome = self._welcomed
        crowd.tally.moved = self._moved
        crowd.tunnel.on_failure = self._failed
        self._commands: dict[str, Callable[[dict[str, Any]], None]] = {
            **dict.fromkeys(DONE, self._order),
            "status": self._status,
            "mark": self._mark,
            "stop": self._stop,
        }

    # --- what the crowd tells ---------------------------------------------------------------------------------

    def _completed(self, peer: Peer) -> None:
        number, now_ns = self._crowd.peers.number_of(peer.slot), clock.now_ns()
        for order in self._orders:
            order.handshake(number, now_ns)

    def _welcomed(self, live: Live, _welcome: Welcome) -> None:
        number, now_ns = self._crowd.peers.number_of(live.slot), clock.now_ns()
        for order in self._orders:
            order.welcomed(number, live.core.session_id, now_ns)
        self._look_again(now_ns)

    def _moved(self, session_id: bytes, attached: bool) -> None:
        now_ns = clock.now_ns()
        for order in self._orders:
            order.moved(session_id, attached, now_ns)
        self._look_again(now_ns)

    def _look_again(self, now_ns: int) -> None:
        if any(order.finished for order in self._orders):
            self._arm(now_ns, now_ns)

    def _failed(self, reason: str) -> None:
        say({"error": reason})
        self._stopped.set()

    # --- orders -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Start who is due, a few at a time; whatever came in meanwhile is looked at between two turns."""
        self._timer = None
        now_ns = clock.now_ns()
        started = sum(order.turn(now_ns, STARTS_PER_TURN) for order in self._orders)
        for order in self._orders:
            order.expire(now_ns)
        if started:
            self._crowd.tunnel.kick()
        for order in [order for order in self._orders if order.finished]:
            self._orders.remove(order)
            say(order.document(clock.now_ns()))
        due = [at for order in self._orders for at in (order.next_ns, order.timeout_ns) if at is not None]
        if due:
            self._arm(clock.now_ns(), min(due))

    def _arm(self, now_ns: int, at_ns: int) -> None:
        if self._timer is not None:
            if self._timer_ns <= at_ns:
                return
            self._timer.cancel()
        self._timer_ns = at_ns
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0, at_ns - now_ns) / NS_PER_S, self._turn)

    # --- commands ---------------------------------------------------------------------------------------------

    def obey(self, line: bytes) -> None:
        """One line of input."""
        command: dict[str, Any] = {}
        try:
            command = json.loads(line)
            self._commands[command["do"]](command)
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            known = command if isinstance(command, dict) else {}
            say({"id": known.get("id"), "error": f"{type(error).__name__}: {error}"})

    def _order(self, command: dict[str, Any]) -> None:
        now_ns = clock.now_ns()
        self._orders.append(Order(self._crowd, command, self._seed, now_ns))
        self._arm(now_ns, now_ns)

    def _mark(self, command: dict[str, Any]) -> None:
        now_ns = clock.now_ns()
        self._crowd.tally.mark(now_ns)
        say({"id": command.get("id"), "marked_ns": now_ns})

    def _stop(self, command: dict[str, Any]) -> None:
        say({"id": command.get("id"), "stopped": True})
        self._stopped.set()

    def _status(self, command: dict[str, Any]) -> None:
        task = asyncio.ensure_future(self._look(command))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, command: dict[str, Any]) -> None:
        """Every session's paths are looked at, some at a time; everything else is counted already."""
        spare = bound = 0
        by_path = [0, 0]
        for first in range(0, len(self._crowd.peers), LOOKS_PER_TURN):
            for number in range(first, min(first + LOOKS_PER_TURN, len(self._crowd.peers))):
                live = self._crowd.live(number)
                if live is None or not live.core.bound_id:
                    continue
                bound += 1
                by_path[live.core.bound_id - 1] += 1
                spare += sum(path.path_id != live.core.bound_id and path.has(1) for path in live.core.paths)
            await asyncio.sleep(0)
        paths = {"bound": bound, "bound_to_path": by_path, "with_standby": spare}
        say({"id": command.get("id"), **self._document(), "paths": paths})

    def _document(self) -> dict[str, Any]:
        crowd, used = self._crowd, resource.getrusage(resource.RUSAGE_SELF)
        return {
            **crowd.tally.document(),
            "clients": len(crowd.peers),
            "handshakes": dict(crowd.tunnel.exchange.counters),
            "frames": dict(crowd.keeper.counters),
            "engine": {name: n for name, n in crowd.tunnel.engine.counters().items() if n},
            "idle_interval_ms": crowd.tunnel.engine.idle_interval_ns // NS_PER_MS,
            "rss_bytes": rss_bytes(),
            "cpu_s": used.ru_utime + used.ru_stime,
        }

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is told to stop, or nobody is left to tell it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        reader = asyncio.StreamReader(limit=COMMAND_BYTES_MAX)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = [asyncio.ensure_future(one) for one in (self._listen(reader), self._tell())]
        say({"ready": True, "clients": len(self._crowd.peers), "rss_bytes": rss_bytes()})
        await self._stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.obey(line)
        self._stopped.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            for order in self._orders:
                say({"progress": order.progress()})


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def prepare(crowd: Crowd, count: int) -> None:
    """Every client's keys, before anything is timed."""
    told_s = time.monotonic()
    while crowd.prepare(KEYS_PER_TURN) < count:
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            say({"progress": {"do": "prepare", "done": len(crowd.peers), "total": count}})
    # Sessions hold no cycles; a collection over all of them would be a stall of a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.disable()


async def _main(options: argparse.Namespace) -> None:
    population = Population(options.seed, options.sessions)
    native = options.worker == "native"
    policy = Policy() if options.quality else NO_QUALITY
    crowd = Crowd(
        population, policy=policy, native=native, ports=options.ports, gateway_port=options.gateway_port
    )
    prepare(crowd, options.sessions)
    crowd.start()
    try:
        await Swarm(crowd, options.seed).run()
    finally:
        crowd.stop()


def main(argv: list[str]) -> int:
    """Until it is told to stop."""
    parser = argparse.ArgumentParser(prog="bench.load.swarm", description="Clients of a load test.")
    parser.add_argument("--sessions", type=int, required=True, help="how many clients there are")
    parser.add_argument("--seed", type=int, required=True, help="of their keys and of every order's order")
    parser.add_argument("--gateway-port", type=int, default=51820)
    parser.add_argument("--ports", type=int, default=4, help="UDP ports per uplink, for rebinds")
    parser.add_argument(
        "--worker", choices=("native", "loop"), default="native", help="who moves the packets"
    )
    parser.add_argument(
        "--quality", action="store_true", help="clients judge loss, latency and jitter of their paths"
    )
    uvloop.run(_main(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
