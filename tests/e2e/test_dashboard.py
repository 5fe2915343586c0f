# SPDX-License-Identifier: Apache-2.0
"""The dashboard in a real browser, first on a live gateway whose client loses a link, then on one made to be nasty.

The topology is that of tests/net/topology.py: a client with two uplinks. The browser runs on the gateway's machine.
Rule: whatever a test is about, in the end no page has an error on its console, has violated its policy, or has asked
another host than the gateway.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import uvloop

from gateway.ops.dashboard import units
from tests.e2e.sessions.bed import Bed
from tests.net.browser import Sheet, browsing, missing_browser
from tests.net.lab import Lab, missing_requirements
from tests.unit.ops.statshost import Made, base, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

MISSING: Final = missing_browser() or missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no browser in a laboratory: {MISSING}")

URL: Final = "http://127.0.0.1:51821/"
# From the cut until it is on the page.
SOON_S: Final = 2.0
# For everything that is only there or not there.
PATIENCE_MS: Final = 15_000
PHONE: Final = {"width": 375, "height": 812}
TOKEN: Final = "correct-horse-battery"
HOSTILE: Final = "<img src=x onerror=alert(1)>"
Open = Callable[..., Sheet]


@contextmanager
def watched(browser: Browser, url: str) -> Iterator[Open]:
    """Opens pages; all of them must have behaved."""
    sheets: list[Sheet] = []

    def open_sheet(path: str = "", **options: Any) -> Sheet:
        sheets.append(Sheet.open(browser, url + path, **options))
        sheets[-1].page.set_default_timeout(PATIENCE_MS)
        return sheets[-1]

    yield open_sheet
    for sheet in sheets:
        assert sheet.errors == []
        assert {f"http://{host}/" for host in sheet.hosts} == {url}
        sheet.close()


# --- a live gateway --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def play() -> Iterator[Playwright]:
    """One at a time in a process, and a loop of its own runs in this thread until it ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as made:
        yield made


@pytest.fixture(scope="module")
def bed(lab: Lab) -> Iterator[Bed]:
    made = Bed(lab)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def inside(play: Playwright, lab: Lab, bed: Bed) -> Iterator[Browser]:
    with browsing(play, lab.tmp, bed.topology.gateway) as browser:
        yield browser


@pytest.fixture
def open_live(inside: Browser) -> Iterator[Open]:
    with watched(inside, URL) as open_sheet:
        yield open_sheet


def settled(page: Page) -> None:
    """Wait until it is live and the plots of the chosen session are there."""
    page.locator("#live.well").wait_for()
    page.locator("#sessions tr.attached").wait_for()
    page.locator("#detail .u-over").nth(2).wait_for()


def test_a_cut_link_is_a_change_of_state_within_two_seconds(bed: Bed, open_live: Open) -> None:
    page = open_live().page
    settled(page)
    switches = page.locator("#detail .news li.transport-switch")
    changes = page.locator("#detail .news li.state-change", has_text="ATTACHED → VOLATILE")
    before = (switches.count(), changes.count())
    side = bed.client.active().side
    bed.topology.set_link(side, up=False)
    cut_s = time.monotonic()
    changes.nth(before[1]).wait_for(timeout=SOON_S * 1000)
    assert time.monotonic() - cut_s < SOON_S
    switches.nth(before[0]).wait_for()
    switch = bed.gateway.journal.of("TRANSPORT_SWITCH")[-1]
    assert switch["reason"] in switches.first.inner_text()
    # The same in the lanes of states, at the plots, among everybody's events, and in the list of sessions.
    page.locator("svg.lanes rect.volatile").first.wait_for(state="attached")
    mark = f"{switch['path_from']}→{switch['path_to']} {switch['reason']}"
    page.locator(".measure.rtt .marker span", has_text=mark).first.wait_for()
    page.locator("#news li.transport-switch", has_text="peer0").first.wait_for()
    page.locator("#sessions tr.attached td", has_text=re.compile(r"^REATTACH_SUCCESS$")).wait_for()
    page.locator("#recovery p", has_text=re.compile("recover(y|ies), .* on average")).wait_for()
    bed.topology.set_link(side, up=True)
    bed.client.wait_settled()


def test_every_path_is_measured(bed: Bed, open_live: Open) -> None:
    page = open_live().page
    settled(page)
    rows = page.locator("#detail table.paths tbody tr")
    rows.nth(1).wait_for()
    assert rows.count() == len(bed.gateway.session_of(bed.ident).paths) == 2
    assert page.locator("#detail table.paths tr.active").count() == 1
    for measure in ("rtt", "loss", "score"):
        readout = page.locator(f".measure.{measure} .readout")
        readout.filter(has_text=re.compile(r"path 1 [\d.]+.*path 2 [\d.]+")).wait_for()


def test_without_javascript_it_is_a_table(open_live: Open) -> None:
    page = open_live(java_script_enabled=False).page
    row = page.locator("#sessions tbody tr")
    assert row.count() == 1
    words = row.inner_text()
    assert "peer0" in words and "● ATTACHED" in words and "udp:10.1" in words
    assert re.search(r"\d %", words) and re.search(r"\d ms", words)
    assert "reload for news" in page.locator("#live").inner_text()
    assert page.locator("#box").inner_text().count("CPU") >= 1
    assert page.locator("#flow").is_hidden() and page.locator("#detail").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_it(scheme: str, open_live: Open) -> None:
    page = open_live(viewport=PHONE, color_scheme=scheme).page
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 384) == (scheme == "light")


# --- a gateway under other circumstances -----------------------------------------------------------------------------


class Host:
    """A gateway of tests/unit/ops/statshost.py on a loop of its own, so that the browser can be waited for."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self._ready = threading.Event()
        self._thread = threading.Thread(target=partial(uvloop.run, self._run()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._folder, settings=self._settings) as self.made:
            self.url = base(self.made) + "/"
            self._ready.set()
            await self._end.wait()

    def on_loop(self, work: Callable[[Made], Any]) -> Any:
        """Do it where the gateway lives."""

        async def call() -> Any:
            found = work(self.made)
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextmanager
def hosting(folder: Path, **settings: Any) -> Iterator[Host]:
    host = Host(folder, settings)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture(scope="module")
def outside(play: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(play, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def add_hostile(made: Made) -> None:
    """A configuration permits no such name; the page must not rely on it."""
    live = made.add_session(1)
    live.core.peer = HOSTILE
    made.move(live, 10)


def test_a_name_that_is_html_is_inert(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        host.on_loop(add_hostile)
        for scripted in (True, False):
            page = open_sheet(java_script_enabled=scripted).page
            page.locator("#sessions tbody th", has_text=HOSTILE).wait_for()
            if scripted:
                page.locator("#detail-title", has_text=HOSTILE).wait_for()
                page.locator("#news li b", has_text=HOSTILE).first.wait_for()
            assert page.locator("img").count() == 1  # ours


def test_nobody_yet(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        page = open_sheet().page
        page.locator("#live.well").wait_for()
        assert "jvpn peer add" in page.locator("#sessions .nobody").inner_text()
        host.on_loop(lambda made: made.add_session(1))
        page.locator("#sessions tr.attached", has_text="peer1").wait_for()
        assert page.locator("#sessions .nobody").count() == 0


def test_a_session_that_ends_leaves_its_history(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        for number in (1, 2):
            host.on_loop(lambda made, number=number: made.add_session(number))
        page = open_sheet().page
        page.locator("#detail-title .attached").wait_for()
        host.on_loop(lambda made: made.seen.docs.terminate({"session": "peer1"}))
        page.locator("#detail-title", has_text="peer1 has ended").wait_for()
        page.locator("#detail .news li", has_text="TERMINATED OPERATOR_TERMINATED").wait_for()
        page.locator("#sessions tbody tr").nth(1).wait_for(state="detached")
        page.reload()
        page.locator("#detail-title", has_text="peer2").wait_for()


def test_what_operators_do_is_among_the_events(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        host.on_loop(lambda made: made.add_session(1))
        page = open_sheet().page
        page.locator("#detail-title .attached").wait_for()
        host.on_loop(lambda made: made.seen.commands["drain"]({"on": True}))
        page.locator("#news li.operator-action", has_text="drain by the process itself done").wait_for()
        host.on_loop(lambda made: made.seen.commands["terminate"]({"session": "peer1"}))
        done = "terminate by the process itself done"
        page.locator("#detail .news li.operator-action", has_text=done).wait_for()
        page.locator("#news li.operator-action", has_text=f"peer1 {done}").wait_for()


def test_the_keyboard_chooses_a_session(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        for number in (1, 2):
            host.on_loop(lambda made, number=number: made.add_session(number))
        page = open_sheet().page
        page.locator("#detail-title", has_text="peer1").wait_for()
        page.get_by_role("button", name="peer1", pressed=True).focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#detail-title", has_text="peer2").wait_for()
        assert page.get_by_role("button", name="peer2", pressed=True).count() == 1
        page.reload()
        page.locator("#detail-title", has_text="peer2").wait_for()


def test_the_token_is_asked_for_and_kept_out_of_addresses(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path, token=TOKEN.encode()) as host, watched(outside, host.url) as open_sheet:
        host.on_loop(lambda made: made.add_session(1))
        sheet = open_sheet()
        page, asked = sheet.page, []
        page.on("request", lambda request: asked.append(request.url))
        assert page.locator("#sessions").is_hidden()
        page.get_by_label("token").fill(TOKEN)
        page.get_by_role("button", name="Show").click()
        page.locator("#sessions tr.attached", has_text="peer1").wait_for()
        page.locator("#news li").first.wait_for()
        assert asked and not [url for url in asked if TOKEN in url]
        assert page.evaluate("Object.keys(localStorage).length") == 0


def test_a_wrong_token_is_said(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path, token=TOKEN.encode()) as host:
        sheet = Sheet.open(outside, host.url)
        sheet.page.get_by_label("token").fill("not-the-right-token")
        sheet.page.get_by_role("button", name="Show").click()
        sheet.page.locator("#live", has_text="that token was refused").wait_for()
        assert all("401" in error for error in sheet.errors), (
            "the browser tells of the refusal, and nothing else"
        )
        sheet.close()


def test_a_gateway_that_is_gone_and_back(tmp_path: Path, outside: Browser) -> None:
    with hosting(tmp_path) as host:
        host.on_loop(lambda made: made.add_session(1))
        sheet = Sheet.open(outside, host.url)
        sheet.page.locator("#sessions tr.attached").wait_for()
        host.on_loop(lambda made: made.server.stop() if made.server else None)
        sheet.page.locator("#trouble", has_text="does not answer").wait_for(timeout=PATIENCE_MS)
        assert sheet.page.locator("#live.well").count() == 0
        assert all("ERR_" in error for error in sheet.errors)
        sheet.close()


def test_both_pages_write_numbers_alike(tmp_path: Path, outside: Browser) -> None:
    values = [
        0,
        0.0004,
        0.0123,
        0.9996,
        1,
        9.96,
        12.34,
        59.6,
        61,
        999.6,
        3599.7,
        7300,
        99_950,
        266_400,
        1.5e9,
    ]
    names = ("data", "rate", "duration", "milliseconds", "percent", "seconds")
    with hosting(tmp_path) as host, watched(outside, host.url) as open_sheet:
        page = open_sheet().page
        found = page.evaluate(
            "async ([names, values]) => { const units = await import('/dashboard/units.js');"
            " return names.map((name) => values.map((value) => units[name](value))) }",
            [names, values],
        )
    for name, said in zip(names, found, strict=True):
        assert said == [getattr(units, name)(value) for value in values], name
