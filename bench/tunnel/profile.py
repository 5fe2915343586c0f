# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.tunnel.profile``: where a gateway's time goes during one TCP stream, as flame graphs
bench/out/profile-PEER-up.svg and -down.svg, with the folded stacks beside them (.folded).

``PEERS`` in the environment chooses the tunnels of ours, `ours` by default. Stacks are unwound from the frame tables
that every library has (dwarf): nothing is built with frame pointers, and what is measured is what is installed.

Rule: where `perf` does not work this says why and ends with 1; nothing about the machine is changed to make it work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.keeping import say
from bench.tunnel import flame
from bench.tunnel.measure import PORT, tcp_argv
from bench.tunnel.ours import OUR_PEERS, Ours, OursForStock
from bench.tunnel.runner import start
from bench.tunnel.scene import Scene
from tests.net.lab import REPO, Lab, LabError, missing_requirements, python_module

OUT: Final = REPO / "bench" / "out"
RECORD_S: Final = 5.0
# The stream is under way when recording begins, and outlives it.
AROUND_S: Final = 4.0
# A prime, so that nothing periodic is always hit at the same place.
FREQUENCY_HZ: Final = 997
STACK_BYTES: Final = 8192
PROFILED: Final = (Ours, OursForStock)
# Hardware counters where there are any; else the kernel's own clock, as in most virtual machines.
EVENTS: Final = ("cycles", "cpu-clock")
PROBE_S: Final = 0.2
SCRIPT_TIMEOUT_S: Final = 240.0


def usable_event() -> str:
    """The first event that can be recorded here; LabError with perf's own words."""
    if shutil.which("perf") is None:
        raise LabError("perf is not installed (Debian: linux-perf)")
    said = ""
    for event in EVENTS:
        argv = ["perf", "stat", "-x,", "-e", event, "sleep", str(PROBE_S)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0 and "<not" not in done.stderr:
            return event
        said = done.stderr.strip()
    raise LabError(f"perf cannot count anything here: {said.splitlines()[-1] if said else 'it says nothing'}")


def record(pids: Sequence[int], event: str, data: Path) -> None:
    """Sample these processes for a while."""
    argv = ["perf", "record", "-q", "-e", event, "-F", str(FREQUENCY_HZ), "-o", str(data)]
    argv += [
        "--call-graph",
        f"dwarf,{STACK_BYTES}",
        "-p",
        ",".join(map(str, pids)),
        "--",
        "sleep",
        str(RECORD_S),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=RECORD_S * 10)
    if done.returncode or not data.exists():
        raise LabError(f"perf record: {done.stderr.strip()}")


def stacks_of(data: Path) -> dict[tuple[str, ...], int]:
    """What was sampled. Without --no-inline every address would be looked up in debug information."""
    argv = ["perf", "script", "-i", str(data), "--no-inline", "-F", "comm,ip,sym,dso"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SCRIPT_TIMEOUT_S)
    if done.returncode:
        raise LabError(f"perf script: {done.stderr.strip()}")
    if not (found := flame.fold(done.stdout.splitlines())):
        raise LabError("perf recorded no samples")
    return dict(found)


def profile(scene: Scene, peer: Ours | OursForStock, event: str, way: str) -> dict[tuple[str, ...], int]:
    """The gateway during one TCP stream."""
    load = scene.client.spawn(tcp_argv(way, RECORD_S + AROUND_S), f"load-{way}")
    try:
        load.wait_line("connected")
        data = scene.lab.tmp / f"perf-{way}.data"
        record(peer.processes()[1], event, data)
    finally:
        load.kill()
    return stacks_of(data)


def draw(name: str, event: str) -> list[Path]:
    """Both ways of one tunnel; the pictures."""
    made = []
    with Lab() as lab:
        scene = Scene.build(lab)
        scene.backend.spawn(python_module("bench.tunnel.load", "serve", str(PORT)), "serve").wait_line(
            "ready"
        )
        kind = OUR_PEERS[name]
        assert issubclass(kind, PROFILED)
        peer = kind(scene)
        start(peer, scene)
        for way in ("up", "down"):
            say(f"{name}: recording the gateway, one TCP stream {way}, {RECORD_S:g} s ({event})")
            stacks = profile(scene, peer, event, way)
            picture = OUT / f"profile-{name}-{way}.svg"
            title = f"{name}: gateway, one TCP stream {way}, {sum(stacks.values())} samples ({event})"
            picture.write_text(flame.svg(stacks, title))
            picture.with_suffix(".folded").write_text(flame.folded_text(stacks))
            made.append(picture)
        peer.stop()
    return made


def main() -> int:
    """Draw them."""
    if problem := missing_requirements():
        sys.exit(f"make profile: {problem}")
    names = [name for name in os.environ.get("PEERS", "ours").split(",") if name]
    if strange := [name for name in names if not issubclass(OUR_PEERS.get(name, object), PROFILED)]:
        sys.exit(f"PEERS: {', '.join(strange)}: only tunnels with our gateway can be profiled")
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        event = usable_event()
        made = [picture for name in names for picture in draw(name, event)]
    except (LabError, subprocess.TimeoutExpired) as error:
        sys.exit(f"make profile: {error}")
    for picture in made:
        say(str(picture.relative_to(REPO)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
