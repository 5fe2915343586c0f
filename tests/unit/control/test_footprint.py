# SPDX-License-Identifier: Apache-2.0
"""What an attached session with two paths costs a gateway, in Python and in the data plane, and what a rekey adds.

The bounds are a tenth above what was measured when they were set: whoever makes a session fatter says so here.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Final

from gateway.constants import NS_PER_MS
from gateway.dataplane.engine import Endpoint
from tests.unit.control import standing

SESSIONS: Final = 2000
# Before the first of those that count: tables that grow in steps have grown, what all share is there.
EARLIER: Final = 48
PYTHON_BYTES: Final = 2400
ENGINE_BYTES: Final = 2600
REKEY_BYTES: Final = 800


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
        )
    ] + [("keepcost", ctypes.c_size_t)]


def allocated_bytes() -> int:
    """By malloc: the data plane, and what Python asks for in pieces over 512 bytes."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo2
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def traced_bytes() -> int:
    """By Python's objects."""
    return tracemalloc.get_traced_memory()[0]


def grow(measure: Callable[[], int]) -> dict[str, float]:
    """Bytes per session, and per rekey of one."""
    made = standing.Standing(SESSIONS)
    peers = [made.add_peer(number) for number in range(SESSIONS)]
    lives = [made.attach(peer, number) for number, peer in enumerate(peers[:EARLIER])]
    gc.collect()
    before = measure()
    for number in range(EARLIER, SESSIONS):
        standing.T0 += NS_PER_MS + number  # each has times of its own
        lives.append(made.attach(peers[number], number))
    gc.collect()
    attached = measure()
    for live in lives[EARLIER:]:
        to = live.at(live.core.paths[0].address)
        assert isinstance(to, Endpoint)
        made.renew(live.peer, to, ours=True)
    gc.collect()
    count = SESSIONS - EARLIER
    return {"session": (attached - before) / count, "rekey": (measure() - attached) / count}


def measured(name: str) -> dict[str, float]:
    """In a process of its own."""
    trace = "import tracemalloc; tracemalloc.start(); " if name == "traced_bytes" else ""
    code = f"{trace}import json, tests.unit.control.test_footprint as f; print(json.dumps(f.grow(f.{name})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_session_stays_small_in_python() -> None:
    found = measured("traced_bytes")
    assert 1000 < found["session"] <= PYTHON_BYTES
    assert 0 < found["rekey"] <= REKEY_BYTES


def test_a_session_stays_small_in_the_data_plane() -> None:
    found = measured("allocated_bytes")
    assert 1000 < found["session"] <= ENGINE_BYTES
    assert 0 < found["rekey"] <= REKEY_BYTES
