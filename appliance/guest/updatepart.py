# SPDX-License-Identifier: Apache-2.0
"""The door to the update part. This part does without it: a box that cannot update still serves and is repaired."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gateway.errors import JumpError


def module(name: str) -> Any:
    """A module of the update part; JumpError when this image has none."""
    try:
        return importlib.import_module(f"appliance.update.{name}")
    except ModuleNotFoundError:
        raise JumpError("this image has no update part") from None


def lines(root: Path) -> str:
    """What it says of the slots; it mounts the boot partition for that."""
    try:
        return "\n".join(module("report").describe(root).lines())
    except JumpError as error:
        return str(error)
