# SPDX-License-Identifier: Apache-2.0
"""What every demo stands on: a laboratory that is always removed, and an exit status that says how it went."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Final

from bench.demo.console import Console
from tests.net.lab import Lab, LabError, missing_requirements

INTERRUPTED: Final = 130


def perform(
    play: Callable[[Lab, Console], None], programs: Sequence[str], *, success: str, failure: str
) -> int:
    """Play it in namespaces of its own; 0 when every check held, 1 when one did not, 130 when interrupted."""
    console = Console()
    if (problem := missing_requirements(programs)) is not None:
        console.result(False, f"the demo cannot run here: {problem}")
        return 1
    # A background job of a script ignores Ctrl-C unless told otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Lab() as lab:
            play(lab, console)
            console.step("Cleaning up")
    except LabError as error:
        console.result(False, "stopped by an error")
        console.quote(str(error))
    except KeyboardInterrupt:
        console.line("\ninterrupted; everything is removed")
        return INTERRUPTED
    console.line()
    verdict = failure if console.failed else success
    console.line(f"{console.mark(not console.failed)} {verdict} ({console.elapsed_s:.0f} s)")
    return 1 if console.failed else 0
