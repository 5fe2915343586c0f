# SPDX-License-Identifier: Apache-2.0
"""Media that a test puts into the machine: a configuration medium, a stick with an update."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.net.lab import LabError

FIRST_LINE = "#jvpn-config"


def user_data(tables: Mapping[str, Any]) -> str:
    """The one document of the unattended set-up. A table's name may have dots; a list is an array of tables."""
    lines = [FIRST_LINE]
    for name, content in tables.items():
        for table in content if isinstance(content, list) else [content]:
            lines += ["", f"[[{name}]]" if isinstance(content, list) else f"[{name}]"]
            # JSON's strings, numbers, booleans and arrays are also TOML's.
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def config_medium(folder: Path, document: str, label: str = "cidata") -> Path:
    """An ISO 9660 medium with the file ``user-data``."""
    return medium(folder, label, {"user-data": document.encode()})


def medium(folder: Path, label: str, files: Mapping[str, bytes | Path]) -> Path:
    """An ISO 9660 medium with these files, by name."""
    content, image = folder / f"{label}.d", folder / f"{label}.iso"
    content.mkdir(parents=True, exist_ok=True)
    for name, what in files.items():
        (content / name).write_bytes(what.read_bytes() if isinstance(what, Path) else what)
    argv = ["genisoimage", "-quiet", "-V", label, "-r", "-J", "-o", str(image), str(content)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise LabError(f"genisoimage: {done.stderr.strip()}")
    return image
