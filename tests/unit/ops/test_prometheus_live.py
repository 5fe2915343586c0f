# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes a real endpoint, evaluates the rules that ship and answers what the dashboard asks."""

from __future__ import annotations

import asyncio
import http
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.control.configmodel import Workers
from tests.unit.ops.promtool import ROOT, RULES
from tests.unit.ops.statshost import Made, base, on_loop, serving
from tests.unit.ops.test_grafana import DASHBOARD, EVERYTHING, expressions
from tests.unit.ops.test_prometheus_rules import ALERTS, RECORDS
from tests.unit.ops.test_stats_series import add_jump_session

PROMETHEUS: Final = shutil.which("prometheus") or shutil.which(str(ROOT / "build/prometheus"))
pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus: `make dev` fetches it where there is apt-get"
)
UP_WITHIN_S: Final = 30.0
LOOK_S: Final = 0.1


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Prometheus:
    """A server of the test's own."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session, self._root = session, f"http://127.0.0.1:{port}"

    async def started(self) -> None:
        """Until it serves; before that it refuses connections, then it says 503."""
        async with asyncio.timeout(UP_WITHIN_S):
            while not await self._ready():
                await asyncio.sleep(LOOK_S)

    async def _ready(self) -> bool:
        try:
            async with self._session.get(f"{self._root}/-/ready") as answer:
                return answer.status == http.HTTPStatus.OK
        except aiohttp.ClientConnectionError:
            return False

    async def ask(self, path: str, **arguments: str) -> Any:
        """The data of an answer that must be good."""
        async with self._session.get(f"{self._root}/api/v1/{path}", params=arguments) as answer:
            body = await answer.json()
        assert body["status"] == "success", (arguments, body)
        return body["data"]

    async def query(self, expression: str) -> list[Any]:
        """Series with their values now."""
        return list((await self.ask("query", query=expression))["result"])

    async def wait(self, expression: str) -> None:
        """Until it has a result."""
        async with asyncio.timeout(UP_WITHIN_S):
            while not await self.query(expression):
                await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def prometheus(folder: Path, made: Made) -> AsyncIterator[Prometheus]:
    """It scrapes this endpoint every second."""
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "jvpn",
                "static_configs": [{"targets": [base(made).removeprefix("http://")]}],
            }
        ],
    }
    config, port = folder / "prometheus.json", free_port()
    config.write_text(json.dumps(settings))  # JSON is YAML
    assert PROMETHEUS is not None
    words = (
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(PROMETHEUS, *words, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            server = Prometheus(session, port)
            await server.started()
            yield server
    finally:
        process.terminate()
        await process.wait()


def test_it_scrapes_judges_and_answers_the_dashboard(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, workers=Workers(1, True), settings=EVERYTHING) as made:
            stock = made.add_session()
            add_jump_session(made, 2)
            made.move(stock, 10)
            async with prometheus(tmp_path, made) as server:
                # Two samples make a rate, and a rule reads the recordings of the turn before.
                await server.wait(
                    "count_over_time(up[1m]) > 3 and up == 1 and instance:jvpn_sessions:sum == 2"
                )
                await no_rule_is_broken(server)
                await the_dashboard_has_data(server)
                assert [
                    one["labels"]
                    for one in (await server.ask("alerts"))["alerts"]
                    if one["state"] == "firing"
                ] == []

    on_loop(work)


async def no_rule_is_broken(server: Prometheus) -> None:
    """Each was evaluated without an error."""
    rules = [rule for group in (await server.ask("rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(ALERTS) | set(RECORDS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"] == []


async def the_dashboard_has_data(server: Prometheus) -> None:
    """Every expression is understood; one that does not look for trouble or a rare event gives something."""
    for title, expression in expressions():
        found = await server.query(expression)
        looks_for_something = any(word in expression for word in ("> 0", "== 0", "== 1"))
        assert found or looks_for_something, (title, expression)
    for variable in DASHBOARD["templating"]["list"][1:]:
        label = variable["name"]
        values = await server.ask(f"label/{label}/values", **{"match[]": "jvpn_build_info"})
        assert len(values) == 1, label


def test_a_gateway_that_goes_away_is_missed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made, prometheus(tmp_path, made) as server:
            await server.wait("up == 1")
            assert made.server is not None
            await made.server.stop()
            await server.wait('ALERTS{alertname="JvpnDown",alertstate="pending"}')

    on_loop(work)


def test_what_must_stay_zero_alerts_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made, prometheus(tmp_path, made) as server:
            assert made.server is not None
            made.server._pages._tally.dual_bindings = 1
            await server.wait('ALERTS{alertname="JvpnDualBinding",alertstate="firing"}')
            alerts = (await server.ask("alerts"))["alerts"]
            (said,) = [one["annotations"] for one in alerts]
            assert said["description"].startswith("1 bindings changed without a new epoch")

    on_loop(work)
