# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.image``: the disk image, with ``--iso`` the ISO as well; see docs/appliance.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.image import plan, twice
from appliance.image.build import Options, build
from appliance.image.shell import BuildError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m appliance.image", description="Build the appliance's images."
    )
    made.add_argument(
        "--iso", action="store_true", help="the ISO as well: a second kernel, a second root file system"
    )
    made.add_argument("--out", type=Path, default=plan.ROOT / "build/image", help="default: build/image")
    made.add_argument(
        "--twice", action="store_true", help="build two times and compare what came out, byte by byte"
    )
    pins = made.add_mutually_exclusive_group()
    pins.add_argument(
        "--locked", action="store_true", help="fail when a package is not the one that is pinned"
    )
    pins.add_argument("--update-lock", action="store_true", help="pin the packages of this build")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    given = parser().parse_args(argv)
    key = Path(os.environ.get("JVPN_UPDATE_KEY") or plan.ROOT / "build/image-key/update.key")
    options = Options(given.out.absolute(), given.iso, given.locked, given.update_lock, key.absolute())
    try:
        if given.twice:
            return twice.compare(options)
        build(options)
    except BuildError as error:
        sys.stderr.write(f"image: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
