# SPDX-License-Identifier: Apache-2.0
"""The dashboard that ships, and the documented metrics, against what a gateway really gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from gateway.control import clock
from gateway.control.configmodel import Workers
from gateway.core.inputs import ReattachRequest
from gateway.core.reasons import Reason
from tests.unit.ops.promtool import ROOT, check_rules, metric_names, needs_promtool
from tests.unit.ops.statshost import get, on_loop, serving
from tests.unit.ops.test_prometheus_rules import RECORDS
from tests.unit.ops.test_stats_series import add_jump_session

DASHBOARD: Final[dict[str, Any]] = json.loads((ROOT / "gateway/ops/grafana/jvpn.json").read_text())
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]
PAGE: Final = (ROOT / "docs/operations.md").read_text()
EVERYTHING: Final = {"per_session": True, "wireguard_names": True}
# A frame that a stock session cannot have sent: a security event.
NOT_FOR_STOCK: Final = ReattachRequest(1, 1, 2, Reason.PREFERRED_PATH, False, "udp:127.0.0.1:10")
COLUMNS: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's own, and what each stands for when an expression is checked without Grafana.
BUILT_IN: Final = {"__rate_interval": "5m", "__range": "1h"}
VARIABLE: Final = re.compile(r"\$\{?(\w+)\}?")
SELECTED: Final = re.compile(r"([a-zA-Z_]\w*)\{([^}]*)\}")
LABEL: Final = re.compile(r"(\w+)(?:=~|!~|!=|=)\"")
GIVEN_BY_PROMETHEUS: Final = {"job", "instance"}
WANTED: Final = (
    "Sessions by state",
    "Transitions",
    "Switches by reason",
    "Recovery",
    "Round trip",
    "Loss",
    "Throughput, inner",
    "Drops by reason",
    "Handshakes",
    "Event loop",
    "CPU",
    "Memory",
)


def expressions() -> Iterator[tuple[str, str]]:
    """Title of the panel and PromQL, variables filled in."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], filled(target["expr"])
    for note in DASHBOARD["annotations"]["list"]:
        if "expr" in note:
            yield note["name"], filled(note["expr"])


def filled(expression: str) -> str:
    """As Grafana would send it."""
    return VARIABLE.sub(lambda found: BUILT_IN.get(found[1], ".*"), expression)


def exposed(folder: Path) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Of a gateway with sessions of both kinds: families with their kinds, and sample names with their labels."""
    kinds: dict[str, str] = {}
    labels: dict[str, set[str]] = {}

    async def work() -> None:
        async with serving(folder, workers=Workers(1, True), settings=EVERYTHING) as made:
            stock = made.add_session()
            made.move(stock, 10)
            made.sessions.feed(clock.now_ns(), stock, NOT_FOR_STOCK)
            add_jump_session(made, 2)
            text = (await get(made, "/metrics"))[1]
        kinds.update(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        for family in families(text):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)

    on_loop(work)
    return kinds, labels


def test_it_imports_as_a_new_dashboard() -> None:
    assert DASHBOARD["id"] is None and DASHBOARD["uid"] and DASHBOARD["title"]
    assert 36 <= DASHBOARD["schemaVersion"] <= 41
    assert len(DASHBOARD["uid"]) <= 40
    assert all(panel["type"] and panel["title"] for panel in PANELS)


def test_panels_have_ids_of_their_own_and_titles_once() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in PANELS]
        assert len(set(found)) == len(found)


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The squares of the grid that a panel covers."""
    at = panel["gridPos"]
    return {(at["x"] + column, at["y"] + line) for column in range(at["w"]) for line in range(at["h"])}


def test_no_panel_lies_over_another_or_beside_the_grid() -> None:
    for one, other in combinations(PANELS, 2):
        assert cells(one).isdisjoint(cells(other)), (one["title"], other["title"])
    for panel in PANELS:
        assert all(0 <= column < COLUMNS for column, _ in cells(panel)), panel["title"]


def test_everything_asks_the_source_that_was_chosen() -> None:
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"] == SOURCE, panel["title"]
            assert all(target["datasource"] == SOURCE for target in panel["targets"])
            names = [target["refId"] for target in panel["targets"]]
            assert names and len(set(names)) == len(names)


def test_variables_are_defined_and_used() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "interface", "instance"]
    used = set(VARIABLE.findall(json.dumps([PANELS, DASHBOARD["annotations"]])))
    used |= set(VARIABLE.findall("".join(str(one["query"]) for one in variables.values())))
    assert used - set(BUILT_IN) == set(variables)


@pytest.mark.parametrize("title", WANTED)
def test_what_operators_look_for_is_there(title: str) -> None:
    assert title in {panel["title"] for panel in PANELS}
    if title == "Recovery":
        assert next(panel for panel in PANELS if panel["title"] == title)["type"] == "heatmap"


@needs_promtool
def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:checked:{number}", "expr": text} for number, (_, text) in enumerate(expressions())
    ]
    done = check_rules(tmp_path, rules)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    broken = check_rules(tmp_path, [{"record": "panel:checked:x", "expr": "sum(("}])
    assert broken.returncode != 0


def test_every_expression_reads_series_that_exist(tmp_path: Path) -> None:
    _, labels = exposed(tmp_path)
    known = set(labels) | set(RECORDS) | {"up"}
    for title, text in expressions():
        read = metric_names(text)
        assert read, title
        assert read <= known, title
        for name, inside in SELECTED.findall(text):
            asked = set(LABEL.findall(inside)) - GIVEN_BY_PROMETHEUS
            assert asked <= labels.get(name, set()), (title, name)


def test_legends_name_labels_that_are_left(tmp_path: Path) -> None:
    """What an aggregation dropped would be an empty legend."""
    _, labels = exposed(tmp_path)
    for panel in PANELS:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.search(r"by \(([^)]*)\)", target["expr"])
            have = GIVEN_BY_PROMETHEUS.union(
                *(labels[name] for name in metric_names(filled(target["expr"])) & set(labels))
            )
            left = {word.strip() for word in grouped[1].split(",")} if grouped else have
            assert wanted <= left & have, (panel["title"], target["expr"])


# --- documents --------------------------------------------------------------------------------------------------------


def test_documented_metrics_are_those_that_exist(tmp_path: Path) -> None:
    kinds, _ = exposed(tmp_path)
    section = PAGE.split("\n## Metrics\n", 1)[1].split("\n## ", 1)[0]
    documented = set(re.findall(r"`((?:jvpn|wireguard)_\w+)`", section))
    ours = {name for name in kinds if not name.startswith("process_")}
    assert documented == ours
    assert "`process_*`" in section


def test_metrics_named_elsewhere_in_the_page_exist(tmp_path: Path) -> None:
    kinds, _ = exposed(tmp_path)
    assert set(re.findall(r"`((?:jvpn|wireguard|process)_\w+)[`{]", PAGE)) <= set(kinds)


def test_documented_kinds_are_right(tmp_path: Path) -> None:
    kinds, _ = exposed(tmp_path)
    rows = re.findall(r"^\| `(jvpn_\w+)` \| histogram \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(name for name, kind in kinds.items() if kind == "histogram")
