# SPDX-License-Identifier: Apache-2.0
"""Scenario files of the load generator: what is accepted, what is refused and how that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load.scenario import DO, Scenario, ScenarioError, parse, scaled
from bench.load.storm import FOLDER, USUAL, read

HEAD = 'title = "t"\nsessions = 100\n'
FILES = sorted(FOLDER.glob("*.toml"))


def test_everything_of_a_file_is_there() -> None:
    made = parse(
        'title = "t"\nsessions = 100\nattached = 40\nseed = 7\nwarmup_s = 3\n'
        "[load]\nrate_per_s = 500\nfrom = 10\ncount = 20\nbytes = 200\n"
        '[gateway.policy.session]\ntransport_lost_ttl = "120s"\n[gateway.audit]\nkeep_files = 3\n'
        '[[event]]\nat_s = 1\ndo = "attach"\nname = "late"\nfrom = 40\ncount = 60\nrate_per_s = 30\n'
        '[[event]]\nat_s = 2.5\ndo = "kill"\n'
        '[[expect]]\ntitle = "all"\nfigure = "late.failed"\nat_most = 0\n'
        '[[expect]]\ntitle = "kept"\nfigure = "load.kept"\nat_least = 0.9\nunit = "x"\n'
    )
    assert (made.sessions, made.established, made.loaded, made.seed, made.warmup_s) == (100, 40, 20, 7, 3)
    assert (made.load.first, made.load.rate_per_s, made.load.size_bytes) == (10, 500, 200)
    assert made.gateway == {
        "policy.session": {"transport_lost_ttl": "120s"},
        "audit": {"keep_files": 3},
    }
    late, kill = made.events
    assert (late.name, late.values) == ("late", {"from": 40, "count": 60, "rate_per_s": 30})
    assert (kill.at_s, kill.name, kill.values) == (2.5, "kill2", {})
    assert [(e.figure, e.limit, e.at_least, e.unit) for e in made.expects] == [
        ("late.failed", 0, False, ""),
        ("load.kept", 0.9, True, "x"),
    ]
    assert made.seconds == 5.5


def test_without_a_word_all_are_attached_and_loaded() -> None:
    made = parse(HEAD)
    assert (made.established, made.loaded, made.load.share) == (100, 100, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sessions = 3", "title is missing"),
        ('title = "t"', "sessions is missing"),
        ('title = "t"\nsessions = 0', "sessions = 0"),
        ('title = "t"\nsessions = 1000000', "sessions = 1000000"),
        ('title = "t"\nsessions = "many"', "is no int"),
        ('title = "t"\nsessions = true', "is no int"),
        (HEAD + "sesions = 4", "sesions: unknown"),
        (HEAD + "warmup_s = -1", "less than nothing"),
        (HEAD + "[load]\nrates = 3", "load.rates: unknown"),
        (HEAD + "[load]\nfrom = 100", "load: 100 of 100"),
        (HEAD + "attached = 101", "101 of 100"),
        (HEAD + "attached = 10\n[load]\ncount = 11", "load: 10 of 100"),
        (HEAD + "[gateway]\nmtu = 3\n", "gateway.mtu: a key outside of any table"),
        (HEAD + '[[event]]\nat_s = 0\ndo = "explode"', "event 1: do = 'explode' is none of"),
        (HEAD + '[[event]]\ndo = "kill"', "event 1: at_s is missing"),
        (HEAD + '[[event]]\nat_s = 0\ndo = "kill"\ncount = 3', "event 1: count: unknown"),
        (HEAD + '[[event]]\nat_s = 0\ndo = "cut"\nfrom = 90\ncount = 11', "cut1: clients 90 to 100 of 100"),
        (
            HEAD + '[[event]]\nat_s = 2\ndo = "kill"\n[[event]]\nat_s = 1\ndo = "start"',
            "events stand in the order of their time",
        ),
        (HEAD + '[[expect]]\ntitle = "x"\nfigure = "y"', "expect 1: title, figure and one of"),
        (HEAD + '[[expect]]\ntitle = "x"\nfigure = "y"\nat_most = 1\nat_least = 1', "expect 1: title"),
        ("title = ", "Invalid value"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("do", DO)
def test_every_event_can_stand_alone(do: str) -> None:
    assert parse(f'{HEAD}[[event]]\nat_s = 0\ndo = "{do}"\n').events[0].do == do


def test_again_and_again_for_others_each_time() -> None:
    again = "count = 5\nevery_s = 10\ntimes = 3\nstep = 20\n"
    made = parse(
        f'{HEAD}audit = true\n[[event]]\nat_s = 1\ndo = "cut"\n{again}[[event]]\nat_s = 6\ndo = "mend"\n{again}'
    )
    assert made.audit
    seen = [(event.at_s, event.do, event.values["from"], event.values["count"]) for event in made.events]
    assert seen == [
        (1, "cut", 0, 5),
        (6, "mend", 0, 5),
        (11, "cut", 20, 5),
        (16, "mend", 20, 5),
        (21, "cut", 40, 5),
        (26, "mend", 40, 5),
    ]
    with pytest.raises(ScenarioError, match="clients 100 to 104 of 100"):
        parse(f'{HEAD}[[event]]\nat_s = 1\ndo = "cut"\n{again.replace("times = 3", "times = 6")}')


def test_fewer_clients_in_proportion() -> None:
    made = scaled(
        parse(
            HEAD + "attached = 50\n[load]\nrate_per_s = 1000\nfrom = 20\ncount = 30\n"
            '[[event]]\nat_s = 3\ndo = "cut"\nuplink = 1\nfrom = 10\ncount = 40\n'
        ),
        0.1,
    )
    assert (made.sessions, made.attached, made.load.first, made.load.count) == (10, 5, 2, 3)
    assert made.load.rate_per_s == 100
    assert made.events[0].values == {"uplink": 1, "from": 1, "count": 4}
    assert made.events[0].at_s == 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ours_are_whole_and_can_be_played_small(path: Path) -> None:
    made = read([str(path)], 0.02)[path.stem]
    assert isinstance(made, Scenario)
    assert made.expects and made.events


def test_all_of_ours_are_played() -> None:
    assert {path.stem for path in FILES} == {*USUAL, "soak"}


def test_a_file_that_is_wrong_ends_the_program(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("sessions = 3\n")
    with pytest.raises(SystemExit, match="title is missing"):
        read([str(wrong)], 1.0)
    with pytest.raises(SystemExit, match=r"absent\.toml"):
        read(["absent"], 1.0)
