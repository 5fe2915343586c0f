# SPDX-License-Identifier: Apache-2.0
"""Control of the impairment relay (relay.h says what it does): builds it on first use, starts it, talks to it.

Rule: a value is given with its unit in its name here and in text there; what the relay refuses is a
`RelayError`. Every command returns the CLOCK_MONOTONIC time in ns at which it took effect: the start of an
outage on the clock of the traffic helpers.

    relay = Relay(lab, router, listen="10.1.0.2:51820", upstream="10.2.0.2:51820", seed=7)
    relay.set("both", delay_ms=10, loss=0.05)
    cut_ns = relay.blackhole("up")
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from tests.net import cprogram
from tests.net.lab import Lab, LabError, Namespace

Way = Literal["up", "down"]
Ways = Literal["up", "down", "both"]

SOURCE_DIR: Final = Path(__file__).parent
SOURCES: Final = tuple(
    SOURCE_DIR / f"relay{part}.c" for part in ("", "_control", "_impair", "_net", "_parse", "_queue")
)
REPLY_BYTES: Final = 1 << 18
REPLY_TIMEOUT_S: Final = 5.0
# Keyword of `Relay.set` -> key and unit of the relay's `set`.
SETTINGS: Final = {
    "loss": "loss={}",
    "duplicate": "dup={}",
    "corrupt": "corrupt={}",
    "reorder": "reorder={}",
    "delay_ms": "delay={}ms",
    "jitter_ms": "jitter={}ms",
    "reorder_delay_ms": "reorder_delay={}ms",
    "rate_mbit": "rate={}mbit",
    "queue_bytes": "queue={}",
    "mtu_bytes": "mtu={}",
}


class RelayError(LabError):
    """The relay refused a command, or has ended."""


def build(sanitize: bool = False) -> Path:
    """The relay's binary, compiled when the sources have changed."""
    return cprogram.build("relay", SOURCES, headers=(SOURCE_DIR / "relay.h",), sanitize=sanitize)


class Relay:
    """A running relay in a namespace (or outside of all, on loopback, with ``namespace=None``)."""

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace | None,
        listen: str,
        upstream: str,
        *,
        seed: int = 1,
        sources: Sequence[str] = (),
        flows: int = 256,
        slot_bytes: int = 2048,
        sanitize: bool = False,
        name: str = "relay",
    ) -> None:
        self.control_path = lab.tmp / f"{name}.sock"
        self.log_path = lab.tmp / f"{name}.log"
        given = {
            "listen": listen,
            "upstream": upstream,
            "control": self.control_path,
            "seed": seed,
            "flows": flows,
        }
        argv = [
            str(build(sanitize)),
            f"--slot={slot_bytes}",
            *(f"--{key}={value}" for key, value in given.items()),
        ]
        argv += [f"--source={source}" for source in sources]
        self.proc = namespace.spawn(argv, name) if namespace else lab.spawn(argv, name)
        self.proc.wait_line("^ready")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(REPLY_TIMEOUT_S)
        self._socket.connect(str(self.control_path))

    def command(self, line: str) -> str:
        """One command of the control language; the reply, RelayError when it is refused."""
        self._socket.send(line.encode())
        reply = self._socket.recv(REPLY_BYTES).decode()
        if not reply or reply.startswith("error"):
            raise RelayError(f"{line[:200]}: {reply or 'the relay has ended'}\n{self.proc.stderr}")
        return reply

    def set(
        self,
        ways: Ways,
        *,
        ge: tuple[float, ...] | None = None,
        types: Sequence[int] | None = None,
        ordered: bool | None = None,
        **values: float,
    ) -> int:
        """Change impairments, leaving the others as they are.

        ``loss duplicate corrupt reorder`` are probabilities 0..1, ``delay_ms jitter_ms reorder_delay_ms``
        milliseconds (jitter is uniform within ±), ``rate_mbit`` with ``queue_bytes`` in front of it,
        ``mtu_bytes`` of the IP packet (0: no limit). ``ge`` is Gilbert–Elliott: (good→bad, bad→good[, loss
        while bad[, loss while good]]). ``types`` are the first payload bytes that all of it applies to
        (WireGuard: 1 initiation … 4 data). ``ordered``: jitter never reorders.
        """
        unknown = set(values) - set(SETTINGS)
        if unknown:
            raise RelayError(f"no such setting: {', '.join(sorted(unknown))}")
        words = [SETTINGS[key].format(value) for key, value in values.items()]
        words += [] if ge is None else ["ge=" + ",".join(map(str, ge))]
        words += [] if types is None else ["types=" + ("+".join(map(str, types)) or "all")]
        words += [] if ordered is None else [f"ordered={int(ordered)}"]
        return self._act(f"set {ways} {' '.join(words)}")

    def clear(self, ways: Ways = "both") -> int:
        """A perfect wire again; the blackhole goes too."""
        return self._act(f"clear {ways}")

    def blackhole(self, ways: Ways | Literal["none"]) -> int:
        """Swallow everything in these directions, and only these."""
        return self._act(f"blackhole {ways}")

    def rebind_port(self) -> int:
        """A new upstream port for every client: what comes to the old one is lost without a sound."""
        return self._act("rebind port")

    def rebind_address(self, address: str | None = None) -> int:
        """The next of ``sources``, or this address, as upstream source."""
        return self._act(f"rebind addr {address or ''}")

    def attack(
        self,
        way: Way,
        source: str,
        *,
        count: int | None = None,
        delay_ms: float = 0.0,
        only: bool = False,
        back: bool = False,
        types: Sequence[int] | None = None,
    ) -> int:
        """Copy-and-forward: send a copy of each datagram from ``source`` (ADDR or ADDR:PORT), before the original.

        ``count`` limits the copies, ``delay_ms`` lets the original win, ``only`` drops the original,
        ``back`` passes on what comes back to ``source`` (otherwise it is only counted, as ``back`` of the
        opposite direction).
        """
        words = [f"from={source}", f"delay={delay_ms}ms", f"only={int(only)}", f"back={int(back)}"]
        words += [] if count is None else [f"count={count}"]
        words += [] if types is None else ["types=" + "+".join(map(str, types))]
        return self._act(f"attack {way} {' '.join(words)}")

    def attack_off(self, way: Way) -> int:
        """Stop copying; what comes back to the attacker's sockets is still handled as before."""
        return self._act(f"attack {way} off")

    def record(self, way: Way, count: int) -> int:
        """Keep the next ``count`` datagrams (at most 256), as they arrived."""
        return self._act(f"record {way} {count}")

    def recorded(self, way: Way) -> list[bytes]:
        """What `record` has kept so far."""
        count = self.stats()[way]["recorded"]
        return [bytes.fromhex(self.command(f"recorded {way} {index}")) for index in range(count)]

    def replay(
        self, way: Way, index: int, *, count: int = 1, source: str | None = None, flow: int = 0
    ) -> int:
        """Send a kept datagram again, through the mapping of client number ``flow`` or from another
        source.
        """
        return self._act(f"replay {way} {index} {_injection(count, source, flow)}")

    def inject(
        self, way: Way, payload: bytes, *, count: int = 1, source: str | None = None, flow: int = 0
    ) -> int:
        """Send a datagram of the caller's making."""
        return self._act(f"inject {way} {payload.hex()} {_injection(count, source, flow)}")

    def seed(self, seed: int) -> int:
        """Start the numbering of decisions again with another seed."""
        return self._act(f"seed {seed}")

    def log(self, on: bool = True) -> Path:
        """Write a line per decision into the returned file; complete after `stats` or ``log(False)``."""
        self._act(f"log {self.log_path if on else 'off'}")
        return self.log_path

    def stats(self) -> dict[str, Any]:
        """Counters: ``up`` and ``down`` (each with the fate of every datagram), ``flows``, ``rebinds``, and how many
        clients were ``forgotten`` for a new one.
        """
        return json.loads(self.command("stats"))  # type: ignore[no-any-return]

    def upstream_sources(self) -> list[tuple[str, int]]:
        """Address and port that the gateway sees, per client."""
        return [(host, port) for host, port in json.loads(self.command("source"))]

    def stop(self) -> None:
        """End it; its mappings are gone."""
        self._socket.close()
        self.proc.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _act(self, line: str) -> int:
        return int(self.command(line).removeprefix("ok "))


def _injection(count: int, source: str | None, flow: int) -> str:
    return f"count={count} flow={flow}" + (f" from={source}" if source else "")
