# SPDX-License-Identifier: Apache-2.0
"""Is the build reproducible? Everything is built two times, our package as well, and the sums are compared."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.image.build import Options, build, source_epoch
from appliance.image.shell import say


def read_sums(path: Path) -> dict[str, str]:
    """Name and digest of a SHA256SUMS."""
    lines = (line.split("  ", 1) for line in path.read_text().splitlines())
    return {name: digest for digest, name in lines}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Files that are not the same in both, or in one only."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def compare(options: Options) -> int:
    """Build two times; 0 when every output is the same."""
    second = options._replace(out=options.out.with_name(f"{options.out.name}-again"), update_lock=False)
    # A commit in between is no difference of builds.
    os.environ["SOURCE_DATE_EPOCH"] = str(source_epoch())
    build(options)
    build(second)
    one, other = (read_sums(each.out / "SHA256SUMS") for each in (options, second))
    different = differences(one, other)
    for name in different:
        say(f"differs: {name}")
    say(f"{len(one) - len(different)} of {len(one)} outputs are the same in both builds")
    return 1 if different else 0
