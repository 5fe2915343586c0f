# SPDX-License-Identifier: Apache-2.0
"""The [audit] table of either file."""

from __future__ import annotations

from typing import Final

from gateway.control import configfields
from gateway.control.configmodel import ALL_KEPT, Audit
from gateway.control.configreport import Problems
from gateway.control.configschema import AuditTable

# A record has a few KB at most; a file that holds some hundred is worth the name.
FILE_MIN_BYTES: Final = 1 << 20
FILE_MAX_BYTES: Final = 1 << 40
# One is being written, and one more shows what was before.
KEEP_MIN: Final = 2
KEEP_MAX: Final = 100_000


def read_audit(table: AuditTable, problems: Problems) -> Audit:
    """Bounds of the journal's files. None is removed unless this says so."""
    max_bytes = problems.check(
        "audit.max_bytes",
        lambda n: configfields.bounded(n, FILE_MIN_BYTES, FILE_MAX_BYTES),
        table.max_bytes,
        ALL_KEPT.max_bytes,
    )
    keep_files = problems.check("audit.keep_files", _keep, table.keep_files, 0)
    return Audit(max_bytes, keep_files)


def _keep(count: int) -> int:
    return count if count == 0 else configfields.bounded(count, KEEP_MIN, KEEP_MAX)
