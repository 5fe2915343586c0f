# SPDX-License-Identifier: Apache-2.0
"""Prometheus' own tool on our rules. Its files are YAML, of which JSON is a part, so tests write JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[3]
RULES: Final = ROOT / "gateway/ops/prometheus/jvpn.rules.yml"
PROMTOOL: Final = shutil.which("promtool") or shutil.which(str(ROOT / "build/promtool"))
needs_promtool: Final = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool: `make dev` fetches it where there is apt-get"
)
# Words of PromQL that stand where a metric could.
_WORDS: Final = frozenset(
    ("and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool")
)
_FUNCTION: Final = re.compile(r"[a-zA-Z_]\w*\s*\(")
_GROUPED: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACED: Final = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_NAME: Final = re.compile(r"(?<![\w:$.])[a-zA-Z_:][\w:]*")


def run(*words: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """promtool with these arguments."""
    assert PROMTOOL is not None
    argv = [PROMTOOL, *map(str, words)]
    return subprocess.run(argv, input=text, text=True, capture_output=True, check=False, timeout=60)


def check_rules(folder: Path, group: Sequence[Mapping[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Whether these rules parse."""
    file = folder / "checked.rules.json"
    file.write_text(json.dumps({"groups": [{"name": "checked", "rules": list(group)}]}))
    return run("check", "rules", file)


def evaluate(
    folder: Path, series: Mapping[str, str], tests: Sequence[Mapping[str, Any]], alerts: Sequence[Any] = ()
) -> subprocess.CompletedProcess[str]:
    """Our rules over these series, one sample a minute; ``tests`` are expressions with what they must give."""
    file = folder / "evaluated.json"
    group = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": list(tests),
        "alert_rule_test": list(alerts),
    }
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [group]}
    file.write_text(json.dumps(document))
    return run("test", "rules", file)


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    bare = _QUOTED.sub('""', expression)
    bare = _BRACED.sub("", _GROUPED.sub("", bare))
    functions = {found[0].rstrip("( \t\n") for found in _FUNCTION.finditer(bare)}
    return {name for name in _NAME.findall(bare) if name not in _WORDS | functions}
