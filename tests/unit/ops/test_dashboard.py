# SPDX-License-Identifier: Apache-2.0
"""The dashboard as it leaves the gateway: what the page holds, what it must not hold, who gets it, and its files.

How it looks and moves in a browser is tests/e2e/test_dashboard.py.
"""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.ops.dashboard import files, page, units
from gateway.ops.dashboard.markup import Markup, join, tag
from tests.unit.ops.statshost import Made, base, get, on_loop, serving

STATIC: Final = files.HERE / "static"
VENDORED: Final = STATIC / "uplot"
TOKEN: Final = b"correct-horse-battery"
HOSTILE: Final = "<img src=x onerror=alert(1)>\"'&</th><script>alert(2)</script>"
VOID: Final = {"meta", "link", "img", "input"}
# What a browser would fetch or run.
ACTIVE: Final = {"script", "style", "iframe", "object", "embed", "base", "svg"}


class Reader(HTMLParser):
    """Checks nesting and collects what matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


async def page_of(made: Made, path: str = "/", **headers: str) -> Reader:
    status, text = await get(made, path, **headers)
    assert status == 200, text
    return Reader(text)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_documents_say(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.move(made.add_session(1), 10)
            made.add_session(2)
            seen = await page_of(made)
            for words in (
                "peer1",
                "peer2",
                "● ATTACHED",
                "udp:127.0.0.1:10",
                "REATTACH_SUCCESS",
                "Sessions 2",
            ):
                assert words in seen.said, words
            assert "1 recovery" in seen.said and "CPU 0" in seen.said and "lo" in seen.said

    on_loop(work)


def test_nothing_inline_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session(1)
            for seen in (await page_of(made), Reader(page.render_locked().decode())):
                for name, attributes in seen.tags:
                    assert "style" not in attributes and name != "style"
                    assert not [key for key in attributes if key.startswith("on")]
                    for key in ("src", "href", "action"):
                        assert (attributes.get(key) or "/").startswith(("/", "#")), attributes
                        assert not (attributes.get(key) or "").startswith("//")
                    assert name != "script" or attributes.get("src")

    on_loop(work)


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    """A configuration permits no such name; the page does not rely on it."""

    async def work() -> None:
        async with serving(tmp_path) as made:
            clean = await page_of(made)
            made.add_session(1).core.peer = HOSTILE
            seen = await page_of(made)
            assert HOSTILE in "".join(seen.words)
            for name in ACTIVE - {"svg"}:
                assert [t for t, _ in seen.tags].count(name) == [t for t, _ in clean.tags].count(name)
            assert [t for t, _ in seen.tags].count("img") == 1

    on_loop(work)


def test_pages_of_many(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            for number in range(1, 6):
                made.add_session(number)
            first = await page_of(made, "/?limit=2")
            (onward,) = [a["href"] for t, a in first.tags if t == "a" and a.get("rel") == "next"]
            assert "Sessions 2 of 5" in first.said and onward is not None
            second = await page_of(made, onward)
            assert "peer3" in second.said and "peer2" not in second.said
            assert (await get(made, "/?limit=0"))[0] == 400
            assert (await get(made, "/?colour=red"))[0] == 400

    on_loop(work)


@pytest.mark.parametrize(
    ("peers", "words"), [(0, "jvpn peer add NAME"), (1, "1 peer is"), (3, "3 peers are")]
)
def test_an_empty_page_says_what_to_do(peers: int, words: str) -> None:
    assert words in Reader(page.nobody(peers)).said


def test_a_gateway_that_is_not_ready_says_so_first() -> None:
    stats = {
        "ready": {"store": False, "audit": True},
        "phase": "serving",
        "uptime_s": 1,
        "peers": 0,
        "version": "1",
    }
    assert page.about(stats).startswith("NOT READY: store")


# --- who gets it -----------------------------------------------------------------------------------------------------


def test_without_the_token_there_is_a_page_and_nothing_in_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, settings={"token": TOKEN}) as made:
            made.add_session(1)
            locked = await page_of(made)
            for words in ("peer1", "●", "127.0.0.1", "version"):
                assert words not in locked.said
            assert "Authorization: Bearer TOKEN" in locked.said
            assert (await get(made, "/dashboard/app.js"))[0] == 200
            for path in ("/stats", "/api/v1/sessions", "/api/v1/events", "/dashboard/", "/dashboard"):
                assert (await get(made, path))[0] == 401, path
            open_page = await page_of(made, Authorization=f"Bearer {TOKEN.decode()}")
            assert "peer1" in open_page.said

    on_loop(work)


@pytest.mark.parametrize("path", ["/", "/dashboard/app.js"])
def test_a_foreign_name_or_site_gets_nothing(path: str, tmp_path: Path) -> None:
    async def work() -> None:
        for settings in ({}, {"token": TOKEN}):
            async with serving(tmp_path, settings=settings) as made:
                assert (await get(made, path, Host="evil.example.com"))[0] == 421
                assert (await get(made, path, **{"Sec-Fetch-Site": "cross-site"}))[0] == 403

    on_loop(work)


@pytest.mark.parametrize(
    "path",
    ["/dashboard/nothing.js", "/dashboard/shell.html", "/dashboard/../page.py", "/dashboard/%2e%2e/page.py",
     "/dashboard/uplot/SOURCE", "/dashboard//app.js"],
)  # fmt: skip
def test_only_the_files_of_the_page_are_given(path: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            assert (await get(made, path))[0] == 404

    on_loop(work)


def test_headers(tmp_path: Path) -> None:
    import aiohttp

    async def work() -> None:
        async with serving(tmp_path) as made, aiohttp.ClientSession() as client:
            async with client.get(base(made)) as answer:
                assert answer.headers["Content-Security-Policy"] == files.POLICY
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.content_type == "text/html"
            script = base(made) + "/dashboard/app.js"
            async with client.get(script) as answer:
                assert answer.content_type == "text/javascript"
                etag = answer.headers["ETag"]
            async with client.get(script, headers={"If-None-Match": etag}) as answer:
                assert answer.status == 304 and await answer.read() == b""

    on_loop(work)


def test_the_policy_is_strict() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in files.POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    sources = {word for name, rule in rules.items() if name.endswith("-src") for word in rule.split()}
    assert sources == {"'none'", "'self'"}


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_vendored_files_are_what_their_source_says() -> None:
    named = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", (VENDORED / "SOURCE").read_text(), re.MULTILINE))
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in VENDORED.iterdir()}
    assert {digest: name for digest, name in found.items() if name != "SOURCE"} == named
    assert "MIT License" in (VENDORED / "LICENSE").read_text()


def test_our_own_files_name_their_licence_and_fetch_nothing() -> None:
    own = [path for path in STATIC.iterdir() if path.suffix in (".js", ".css")]
    assert len(own) > 5
    for path in own:
        text = path.read_text()
        assert "SPDX-License-Identifier: Apache-2.0" in text.splitlines()[0], path.name
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "@import",
            "url(",
        ):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
        assert len(text.splitlines()) <= 300
        assert all(len(line) <= 120 for line in text.splitlines()) or path.suffix == ".css", path.name


def test_every_module_and_file_that_is_named_exists() -> None:
    given = files.read_all()
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./(\w+\.js)"', path.read_text()):
            assert f"{files.FOLDER}{name}" in given, f"{path.name} imports {name}"
    shell = (files.HERE / "shell.html").read_text()
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', shell):
        assert name in given, name


def palettes() -> list[dict[str, str]]:
    """The colours of the light and of the dark scheme by name."""
    roots = re.findall(r":root \{([^}]*)\}", (STATIC / "style.css").read_text())
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", root)) for root in roots]
    return [colours for colours in found if colours]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_can_be_read_in_both_schemes() -> None:
    light, dark = palettes()
    assert light.keys() == dark.keys() and contrast("#fff", "#000") == pytest.approx(21)
    for colours in (light, dark):
        for name in colours.keys() - {"paper", "card", "rule", "note"}:
            for ground in ("paper", "card"):
                assert contrast(colours[name], colours[ground]) >= 4.5, f"{name} on {ground}"
        assert contrast(colours["ink"], colours["note"]) >= 4.5


# --- markup and units ------------------------------------------------------------------------------------------------


def test_markup_escapes_by_itself() -> None:
    assert tag("b", "<i>", title='"x"') == '<b title="&quot;x&quot;">&lt;i&gt;</b>'
    assert (
        tag("b", tag("i", "&"), hidden=None, class_="c", data_x=1)
        == '<b class="c" data-x="1"><i>&amp;</i></b>'
    )
    assert join("<", Markup("<"), 1) == "&lt;<1"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (units.data(0), "0 B"),
        (units.data(999), "999 B"),
        (units.data(1000), "1.00 kB"),
        (units.data(12_345_678), "12.3 MB"),
        (units.rate(125_000), "1.00 Mbit/s"),
        (units.rate(12.4), "99 bit/s"),
        (units.duration(0.44), "0.4 s"),
        (units.duration(59.4), "59 s"),
        (units.duration(200), "3 min 20 s"),
        (units.duration(7500), "2 h 5 min"),
        (units.duration(266_400), "3 d 2 h"),
        (units.milliseconds(None), units.MISSING),
        (units.milliseconds(20.04), "20.0 ms"),
        (units.percent(0.0153), "1.5 %"),
        (units.seconds(0.0025), "2.5 ms"),
        (units.seconds(1.0), "1 s"),
    ],
)  # fmt: skip
def test_units(said: Any, wanted: str) -> None:
    assert said == wanted
