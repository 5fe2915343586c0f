# SPDX-License-Identifier: Apache-2.0
"""What a gateway is like with N configured peers and M sessions: ``python -m bench.load.footprint``.

    start     seconds from its start until a first handshake is answered
    attach    M clients with two paths each; its memory per session is (RSS then - RSS before) / M
    idle      its processor time while they stay: rekeys, probes, timers
    restart   killed and started again with all of them: seconds until all are bound again

It prints one JSON object. It runs in a network namespace of its own, which it makes itself.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench.load.callers import Callers
from bench.load.population import INSIDE, Population, nth

PORT: Final = 51820
START_S: Final = 600.0
INSIDE_MARK: Final = "JVPN_FOOTPRINT_INSIDE"
TABLES: Final = """\
[gateway]
interface = "jvfp0"
private_key = "{key}"
listen = ["127.0.0.1:{port}"]
addresses = ["10.31.255.254/12"]
wg_socket = false
[handshake]
under_load_per_s = 1000000
[policy.session]
transport_lost_ttl = "120s"
[stats]
listen = ["127.0.0.1:51821"]
"""


def encoded(key: bytes) -> str:
    """As configurations have keys."""
    return base64.b64encode(key).decode()


def write_configuration(path: Path, people: Population, peers: int) -> None:
    """A gateway that knows the first so many of them."""
    with path.open("w") as file:
        path.chmod(0o600)
        file.write(TABLES.format(key=encoded(people.gateway.private), port=PORT))
        for number in range(peers):
            public = encoded(people.identity(number).public)
            file.write(
                f'[[peer]]\nname = "client-{number}"\npublic_key = "{public}"\n'
                f'allowed_ips = ["{nth(INSIDE, number)}/32"]\n'
            )


class Gateway:
    """One gateway process at a time."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "gateway.toml"
        self._folder = folder
        self._proc: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"

    def start(self, *python: str) -> None:
        """Returns at once."""
        words = [sys.executable, *python, "-m", "gateway.ops.cli", "gateway"]
        words += ["-c", str(self.config), "--state-dir", str(self._folder / "state")]
        env = {**os.environ, "JVPN_RUNTIME_DIR": str(self._folder / "run")}
        with self.log.open("wb") as log:
            self._proc = subprocess.Popen(words, env=env, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """Of the running one."""
        if self._proc is None or self._proc.poll() is not None:
            raise RuntimeError("the gateway does not run:\n" + self.log.read_text()[-4000:])
        return self._proc.pid

    def end(self, number: int) -> None:
        """By a signal; returns when it is gone."""
        if self._proc is not None:
            self._proc.send_signal(number)
            self._proc.wait()

    def memory_bytes(self) -> int:
        """Its resident memory now."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return 1024 * int(found[1]) if found else 0

    def processor_s(self) -> float:
        """What it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sitting:
    """One gateway with its callers."""

    def __init__(self, folder: Path, people: Population, peers: int) -> None:
        self.gateway, self._people, self._peers = Gateway(folder), people, peers
        self.figures: dict[str, Any] = {"peers": peers}
        write_configuration(self.gateway.config, people, peers)

    def start(self, *python: str) -> Callers:
        """Until one client is attached."""
        began = time.monotonic()
        self.gateway.start(*python)
        callers = Callers(self._people, ("127.0.0.1", PORT))
        callers.attach(1, START_S, lambda: self.gateway.pid)
        self.figures["start_s"] = round(time.monotonic() - began, 2)
        time.sleep(1)
        self.figures["start_cpu_s"] = self.gateway.processor_s()
        self.figures["start_rss_mb"] = round(self.gateway.memory_bytes() / 1e6, 1)
        return callers

    def attach(self, callers: Callers, count: int) -> None:
        """So many sessions, and what one costs."""
        before, used = self.gateway.memory_bytes(), self.gateway.processor_s()
        took_s = callers.attach(count // 2, 0.2 * count + 60)
        callers.stay(1)
        half = self.gateway.memory_bytes()
        took_s += callers.attach(count - count // 2, 0.2 * count + 60)
        callers.stay(1)
        after = self.gateway.memory_bytes()
        self.figures |= {
            "sessions": count,
            "attach_s": round(took_s, 1),
            "attach_cpu_ms": round(1000 * (self.gateway.processor_s() - used) / count, 3),
            "session_bytes": round((after - before) / count),
            # Of the second half: without what the first sessions bring along (rings, caches, the tail of events).
            "session_bytes_later": round((after - half) / (count - count // 2)),
        }

    def stay(self, callers: Callers, seconds: float, count: int) -> None:
        """Idle, and what that costs."""
        before, used, made = self.gateway.memory_bytes(), self.gateway.processor_s(), callers.handshakes
        callers.stay(seconds)
        self.figures |= {
            "idle_s": seconds,
            "idle_core": round((self.gateway.processor_s() - used) / seconds, 4),
            "idle_rekeys_per_s": round((callers.handshakes - made) / seconds, 1),
            "idle_grown_bytes": round((self.gateway.memory_bytes() - before) / count),
        }

    def restart(self, callers: Callers) -> None:
        """Killed, started, and everybody there again."""
        self.gateway.end(signal.SIGKILL)
        began = time.monotonic()
        self.gateway.start()
        self.figures["back_s"] = round(callers.come_back(START_S), 2)
        self.figures["restart_s"] = round(time.monotonic() - began, 2)
        self.figures["restart_cpu_s"] = self.gateway.processor_s()


def inside(options: argparse.Namespace) -> int:
    """In the namespace."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it has is printed
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    people = Population(options.seed, max(options.peers, options.sessions))
    with tempfile.TemporaryDirectory(prefix="footprint-", dir=options.folder) as name:
        sitting = Sitting(Path(name), people, options.peers)
        try:
            callers = sitting.start(*options.python.split())
            if options.sessions:
                sitting.attach(callers, options.sessions - 1)
            if options.idle:
                sitting.stay(callers, options.idle, options.sessions)
            if options.restart:
                sitting.restart(callers)
        finally:
            sitting.gateway.end(signal.SIGTERM)
            print(json.dumps(sitting.figures), flush=True)
            if options.show_log:
                print(sitting.gateway.log.read_text()[-8000:], file=sys.stderr)
    return 0


def main(argv: list[str]) -> int:
    """The figures of one sitting."""
    parser = argparse.ArgumentParser(prog="bench.load.footprint")
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--idle", type=float, default=0.0, help="seconds")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument(
        "--python", default="", help="options of the gateway's interpreter, e.g. '-X importtime'"
    )
    parser.add_argument("--show-log", action="store_true")
    parser.add_argument("--folder", default=None, help="where its files go meanwhile")
    options = parser.parse_args(argv)
    if INSIDE_MARK not in os.environ:
        words = ["unshare", "-n", sys.executable, "-m", "bench.load.footprint", *argv]
        return subprocess.run(words, env={**os.environ, INSIDE_MARK: "1"}, check=False).returncode
    return inside(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
