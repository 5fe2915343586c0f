# SPDX-License-Identifier: Apache-2.0
"""The page as HTML, from the same documents that the API gives. Pure; the browser's modules draw the same parts again.

Rule: a state is told by its name and glyph, colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from gateway.ops.dashboard import units
from gateway.ops.dashboard.markup import Markup, join, tag

GLYPHS: Final = {"BIRTH": "○", "ATTACHED": "●", "VOLATILE": "◐", "DEGRADED": "▼", "RECOVERING": "↻"}
# How troubled a state is; states in trouble are headline figures even while nobody is in them.
HEADLINE: Final = ("ATTACHED", "VOLATILE", "DEGRADED", "RECOVERING")
COLUMNS: Final = (
    ("Peer", ""),
    ("State", ""),
    ("Since", "number"),
    ("Reason", ""),
    ("Transport", ""),
    ("Loss", "number"),
    ("RTT", "number"),
    ("Switches", "number"),
)
# The page of a gateway has this many interfaces at most, the busiest.
NICS_MAX: Final = 8
_SHELL: Final = Template((Path(__file__).parent / "shell.html").read_text(encoding="utf-8"))


class Rates(NamedTuple):
    """What flows now, inner bytes and packets a second."""

    in_bytes: float
    out_bytes: float
    drops: float


class View(NamedTuple):
    """What one page shows: the documents of /stats, /api/v1/sessions and /api/v1/paths."""

    stats: Mapping[str, Any]
    sessions: Mapping[str, Any]
    paths: Mapping[str, Any]
    rates: Rates
    limit: int


def render(view: View) -> bytes:
    """The whole page."""
    stats = view.stats
    return _fill(
        title=f"{stats['interface']} · Jumping VPN",
        interface=stats["interface"],
        about=about(stats),
        hidden="",
        headline=headline(stats["sessions"], view.rates),
        total=total(view.sessions),
        sessions=sessions(view),
        pager=pager(view),
        recovery=recovery(stats["recovery"]),
        drops=drops(stats["counters"]),
        box=box(stats["box"]),
        without="",
    )


def render_locked() -> bytes:
    """The page for somebody who has not shown a token: nothing of the gateway is in it."""
    how = join(
        "This page shows what it knows to who sends the token of stats.token_file, as JavaScript does here, or: ",
        tag("code", 'curl -H "Authorization: Bearer TOKEN"'),
    )
    empty = dict.fromkeys(
        ("interface", "about", "headline", "total", "sessions", "pager", "recovery", "drops", "box"), ""
    )
    without = tag("noscript", tag("p", how, class_="notice"))
    return _fill(title="Jumping VPN", hidden=Markup(" hidden"), without=without, **empty)


def _fill(**parts: object) -> bytes:
    return _SHELL.substitute({name: join(part) for name, part in parts.items()}).encode()


# --- the head ----------------------------------------------------------------------------------------------------


def about(stats: Mapping[str, Any]) -> str:
    """One line on the gateway; what is not ready comes first."""
    failing = [name.replace("_", " ") for name, holds in stats["ready"].items() if not holds]
    health = f"NOT READY: {', '.join(failing)}" if failing else stats["phase"]
    up = units.duration(stats["uptime_s"])
    peers = f"{stats['peers']} {'peer' if stats['peers'] == 1 else 'peers'} configured"
    return f"{health} · up {up} · {peers} · version {stats['version']}"


def headline(states: Mapping[str, int], rates: Rates) -> Markup:
    """The figures to look at first."""
    figures = [_state_figure(name, states.get(name, 0)) for name in HEADLINE]
    if states.get("BIRTH"):
        figures.append(_state_figure("BIRTH", states["BIRTH"]))
    flows = (
        ("In", "in", units.rate(rates.in_bytes), False),
        ("Out", "out", units.rate(rates.out_bytes), False),
        ("Drops", "drops", f"{rates.drops:.0f} /s", rates.drops >= 1),
    )
    figures += [_figure(label, name, value, hot) for label, name, value, hot in flows]
    return tag("dl", *figures, class_="figures")


def _state_figure(name: str, count: int) -> Markup:
    quiet = "" if count else " quiet"
    label = join(tag("span", GLYPHS[name], aria_hidden="true", class_="glyph"), " ", name.lower())
    return tag("div", tag("dt", label), tag("dd", count), class_=f"state {name.lower()}{quiet}")


def _figure(label: str, name: str, value: str, hot: bool) -> Markup:
    return tag("div", tag("dt", label), tag("dd", value), class_=f"flow {name}{' hot' if hot else ''}")


# --- sessions ----------------------------------------------------------------------------------------------------


def total(listed: Mapping[str, Any]) -> str:
    """How many there are, and how many of them are listed here."""
    shown = len(listed["sessions"])
    return str(shown) if shown == listed["total"] else f"{shown} of {listed['total']}"


def sessions(view: View) -> Markup:
    """The table, or what to do while there is nobody."""
    rows = view.sessions["sessions"]
    if not view.sessions["total"]:
        return nobody(view.stats["peers"])
    bound = {(path["session_id"], path["path_id"]): path for path in view.paths["paths"]}
    head = [tag("th", name, scope="col", class_=kind or None) for name, kind in COLUMNS]
    body = [_session(row, bound.get((row["session_id"], row["path_id"]))) for row in rows]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="sessions")


def _session(row: Mapping[str, Any], path: Mapping[str, Any] | None) -> Markup:
    cells = (
        units.duration(row["since_s"]),
        tag("span", row["reason"] or units.MISSING, class_="code"),
        row["path"] or "nothing bound",
        units.percent(path["loss"]) if path else units.MISSING,
        units.milliseconds(path["srtt_ms"]) if path else units.MISSING,
        f"{row['switches_last_minute']} of {row['switches_per_minute_max']} /min",
    )
    kinds = [kind or None for _, kind in COLUMNS[2:]]
    return tag(
        "tr",
        tag("th", row["peer"], scope="row"),
        tag("td", state(row["state"])),
        *(tag("td", cell, class_=kind) for cell, kind in zip(cells, kinds, strict=True)),
    )


def state(name: str) -> Markup:
    """A state with its glyph."""
    glyph = tag("span", GLYPHS.get(name, "✕"), aria_hidden="true", class_="glyph")
    return tag("span", glyph, " ", name, class_=f"state {name.lower()}")


def nobody(peers: int) -> Markup:
    """What to do next."""
    if peers:
        tells = f"No session yet. {peers} {'peer is' if peers == 1 else 'peers are'} configured; start one of them:"
        command = "jvpn connect -c PEER.conf"
    else:
        tells, command = "No peer yet. Add the first one, and give what it prints to that machine:", ""
    add = "jvpn peer add NAME --qr --gateway-endpoint YOUR.ADDRESS:51820"
    return tag(
        "div",
        tag("p", tells),
        tag("pre", tag("code", command or add)),
        tag(
            "p",
            "Any WireGuard app can scan the code. ",
            tag("code", "jvpn doctor"),
            " says what this machine lacks.",
        ),
        class_="nobody",
    )


def pager(view: View) -> Markup:
    """The way to the next page of sessions, and back to the first."""
    rows, links = view.sessions["sessions"], []
    if view.sessions["more"]:
        query = urlencode({"limit": view.limit, "after": rows[-1]["session_id"]})
        links = [tag("a", "First", href="/"), " ", tag("a", "Next", href=f"/?{query}", rel="next")]
    elif len(rows) < view.sessions["total"]:
        links = [tag("a", "First", href="/")]
    return tag("nav", *links, aria_label="Pages of sessions", id="pager") if links else Markup("")


# --- the cards ---------------------------------------------------------------------------------------------------


def _bar(share: float) -> Markup:
    """A bar by attributes: the page's policy forbids styles in it."""
    width = f"{100 * min(1.0, max(0.0, share)):.1f}"
    rect = tag("rect", width=width, height="8")
    return tag("svg", rect, class_="bar", viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true")


def _table(caption: str, rows: Iterable[tuple[object, float, object]]) -> Markup:
    """Rows of a name, a bar and a number."""
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", _bar(share), class_="bars"),
            tag("td", value, class_="number"),
        )
        for name, share, value in rows
    ]
    return tag("table", tag("caption", caption, class_="unseen"), tag("tbody", *body), class_="bars")


def _plain(caption: str, rows: Iterable[tuple[object, object]]) -> Markup:
    """Rows of a name and a number."""
    body = [
        tag("tr", tag("th", name, scope="row"), tag("td", value, class_="number")) for name, value in rows
    ]
    return tag("table", tag("caption", caption, class_="unseen"), tag("tbody", *body), class_="plain")


def recovery(found: Mapping[str, Any]) -> Markup:
    """The histogram of recovery times."""
    counts = found["counts"]
    if not sum(counts):
        return tag("p", "No session has had to recover.", class_="calm")
    names = [f"≤ {units.seconds(bound)}" for bound in found["bounds_s"]]
    names.append(f"> {units.seconds(found['bounds_s'][-1])}")
    highest = max(counts)
    rows = [(name, count / highest, count) for name, count in zip(names, counts, strict=True)]
    mean = units.seconds(found["total_s"] / sum(counts))
    return join(
        tag(
            "p",
            f"{sum(counts)} {'recovery' if sum(counts) == 1 else 'recoveries'}, {mean} on average",
            class_="calm",
        ),
        _table("Recoveries by the time they took", rows),
    )


def drops(counters: Mapping[str, int]) -> Markup:
    """Every kind of drop that happened, the most frequent first."""
    found = dropped(counters)
    if not found:
        return tag("p", "Nothing was dropped.", class_="calm")
    highest = max(found.values())
    ordered = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    return _table("Dropped packets by reason", [(name, count / highest, count) for name, count in ordered])


def dropped(counters: Mapping[str, int]) -> dict[str, int]:
    """The counters of drops that are not zero, by reason."""
    return {
        name.removeprefix("drop_"): count
        for name, count in counters.items()
        if name.startswith("drop_") and count
    }


def box(found: Mapping[str, Any]) -> Markup:
    """Processors, memory, interfaces, and what the kernel dropped."""
    cores = found["cpu"]["per_core_percent"]
    memory, process, udp = found["memory"], found["process"], found["udp"]
    used = memory["total_bytes"] - memory["available_bytes"]
    bars: list[tuple[object, float, object]] = [
        (f"CPU {number}", percent / 100, f"{percent:.0f} %") for number, percent in enumerate(cores)
    ]
    share = used / memory["total_bytes"] if memory["total_bytes"] else 0.0
    bars.append(("Memory", share, f"{units.data(used)} of {units.data(memory['total_bytes'])}"))
    load = " ".join(f"{one:.2f}" for one in found["cpu"]["load"])
    own = f"{process['cpu_percent']:.0f} % CPU, {units.data(process['rss_bytes'])}, {process['fds']} files"
    rows: list[tuple[object, object]] = [("Load", load), ("This process", own)]
    rows += [(f"{name} °C", f"{value:.0f}") for name, value in found["temperatures_c"].items()]
    rows += [(f"UDP {name.replace('_', ' ')}", _count(count)) for name, count in udp.items()]
    return join(
        _table("Processors and memory", bars),
        _plain("Load, this process, UDP errors", rows),
        _nics(found["nics"]),
    )


def _count(count: int) -> Markup:
    """A count that should be zero."""
    return tag("span", count, class_="some" if count else "quiet")


def _nics(nics: Mapping[str, Mapping[str, int]]) -> Markup:
    def moved(name: str) -> int:
        return nics[name]["rx_bytes"] + nics[name]["tx_bytes"]

    columns = ("Interface", "received", "sent", "drops", "errors")
    head = [tag("th", name, scope="col", class_="number" if at else None) for at, name in enumerate(columns)]
    body = []
    for name in sorted(nics, key=lambda one: (-moved(one), one))[:NICS_MAX]:
        nic = nics[name]
        values = (
            units.data(nic["rx_bytes"]),
            units.data(nic["tx_bytes"]),
            _count(nic["rx_drops"] + nic["tx_drops"]),
            _count(nic["rx_errors"] + nic["tx_errors"]),
        )
        cells = [tag("td", value, class_="number") for value in values]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="nics")
