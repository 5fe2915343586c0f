# SPDX-License-Identifier: Apache-2.0
"""How much the one logger of this process says, which a reload may change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Gate:
    """A structlog processor: what is below ``level`` goes no further."""

    def __init__(self) -> None:
        self.level = logging.INFO

    def __call__(self, logger: object, method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
        if LEVELS.get(method, logging.CRITICAL) < self.level:
            raise structlog.DropEvent
        return fields


GATE: Final = Gate()
