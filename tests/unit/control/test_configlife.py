# SPDX-License-Identifier: Apache-2.0
"""Reload, diff and rollback on real files: all of a change or nothing of it, whoever asks and whatever fails."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from gateway.control import actor, config
from gateway.control.confighistory import KEPT, History, holds_secret
from gateway.control.configkeys import take_gateway
from gateway.control.configlife import ConfigLife
from gateway.control.configmodel import GatewayConfig
from gateway.control.ctlsock import Handler
from gateway.control.keysfile import write_key_file
from gateway.core.audit import Body
from gateway.errors import HostError, NotFound, Refused, UsageError
from tests.unit.control import samples

FILE = '[gateway]\nprivate_key_file = "own.key"\n'
LOG = structlog.get_logger()


class Place:
    """A gateway's file and state directory, and what was applied."""

    def __init__(self, folder: Path, text: str = FILE) -> None:
        self.file, self.state = folder / "gateway.toml", folder / "state"
        write_key_file(folder / "own.key", bytes([5]) * 32)
        self.file.write_text(text)
        self.applied: list[GatewayConfig] = []
        self.refuse: set[int] = set()  # machines say no to these numbers of handshakes
        self.phases: list[bool] = []
        self.life = ConfigLife(
            config.load_gateway(self.file),
            History(self.state, "jvpn0"),
            LOG,
            read=lambda text, path: config.parse_gateway(text, str(path), path.parent),
            take=take_gateway,
            apply=self._apply,
        )
        self.life.around = self._around
        self.life.audited = self._audited
        self.acts: list[Body] = []

    @contextmanager
    def _around(self) -> Iterator[None]:
        self.phases.append(True)
        try:
            yield
        finally:
            self.phases.append(False)

    def _audited(self, action: str, handler: Handler) -> Handler:
        return actor.audited(action, handler, self.acts.append, lambda: 0)

    @property
    def records(self) -> list[tuple[str, str, str, str]]:
        """What the audit journal is told."""
        return [(one["action"], one["by"], one["via"], one["outcome"]) for one in self.acts]

    async def _apply(self, wanted: GatewayConfig) -> Sequence[str]:
        self.applied.append(wanted)
        if wanted.under_load_per_s in self.refuse:
            raise HostError("the machine says no")
        return ["peer.phone"] if wanted.peers else []

    @property
    def limits(self) -> list[int]:
        return [one.under_load_per_s for one in self.applied]

    def write(self, more: str) -> None:
        self.file.write_text(FILE + more)

    def limit(self, number: int) -> None:
        self.write(f"[handshake]\nunder_load_per_s = {number}\n")

    async def started(self) -> asyncio.Task[None]:
        """`serve` has recorded the file it began with."""
        task = asyncio.ensure_future(self.life.serve())
        while not self.life._history.paths() and not holds_secret(self.file.read_text()):
            await asyncio.sleep(0.001)
        return task


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_reload_applies_what_it_can_and_names_the_rest(place: Place) -> None:
    async def scenario() -> None:
        place.write('[handshake]\nunder_load_per_s = 7\n[forward]\nenabled = false\n[log]\nlevel = "debug"\n')
        found = await place.life.reload()
        assert found["schema"] == "jvpn.config-reload/1"
        assert (found["ok"], found["kept"]) == (True, True)
        assert found["applied"] == ["handshake.under_load_per_s", "log.level"]
        assert found["needs_restart"] == ["forward.enabled"]
        # What waits goes on waiting, what was applied does not come twice.
        again = await place.life.reload()
        assert (again["applied"], again["needs_restart"]) == ([], ["forward.enabled"])

    asyncio.run(scenario())
    assert place.limits == [7, 7]
    assert place.life.running.forward_enabled
    assert place.records == [("config.reload", "", "", "done")] * 2
    assert place.phases == [True, False, True, False]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (FILE + 'listn = ["0.0.0.0:1"]\n', "gateway.listn"),
        ('[gateway]\nprivate_key_file = "gone.key"\n', "gateway.private_key_file"),
        (FILE + "[handshake]\nunder_load_per_s = 0\n", "handshake.under_load_per_s"),
        ("[gateway\n", ""),
    ],
)
def test_a_bad_file_changes_nothing(place: Place, text: str, key: str) -> None:
    place.file.write_text(text)
    found = asyncio.run(place.life.reload())
    assert (found["ok"], found["applied"], place.applied) == (False, [], [])
    assert [error["key"] for error in found["errors"]] == [key]
    assert found["errors"][0]["file"] == str(place.file) and found["errors"][0]["line"] > 0
    assert place.phases == [True, False]
    assert place.records == [("config.reload", "", "", "failed")]
    assert asyncio.run(place.life.diff())["ok"] is False


def test_a_file_that_is_gone_changes_nothing(place: Place) -> None:
    place.file.unlink()
    found = asyncio.run(place.life.reload())
    assert (found["ok"], place.applied) == (False, [])


def test_what_the_machine_refuses_is_taken_back(place: Place) -> None:
    place.limit(13)
    place.refuse = {13}
    with pytest.raises(Refused, match="the machine says no"):
        asyncio.run(place.life.reload())
    assert place.limits == [13, 2000]
    assert place.life.running.under_load_per_s == 2000
    assert place.phases == [True, False]


def test_a_hangup_before_the_start_is_done_is_not_lost_and_many_are_one(place: Place) -> None:
    async def scenario() -> None:
        place.life.hang_up()
        place.life.hang_up()
        task = asyncio.ensure_future(place.life.serve())
        while place.phases != [True, False]:
            await asyncio.sleep(0.001)
        place.refuse, place.phases[:] = {13}, []
        place.limit(13)
        place.life.hang_up()  # refused by the machine: it is logged, and the next one is heard
        while place.phases != [True, False]:
            await asyncio.sleep(0.001)
        place.limit(14)
        place.life.hang_up()
        while len(place.records) < 3:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert place.limits == [2000, 13, 2000, 14]
    outcomes = ["done", "refused", "done"]
    assert place.records == [("config.reload", "SIGHUP", "signal", outcome) for outcome in outcomes]


def test_a_diff_asks_about_the_file_another_one_or_a_text(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert (await place.life.diff())["changes"] == []
        other = tmp_path / "other.toml"
        other.write_text(FILE + "[nat]\nenabled = true\n")
        for args in ({"file": str(other)}, {"file": "/nowhere/../x.toml", "text": other.read_text()}):
            if "text" in args:  # its key files are looked for beside the file that it stands for
                args["file"] = str(tmp_path / "not-there.toml")
            found = await place.life.handlers()["config.diff"](args)
            assert found["changes"] == [{"key": "nat.enabled", "running": False, "file": True, "live": True}]
        with pytest.raises(UsageError):
            await place.life.diff(file="relative.toml")

    asyncio.run(scenario())
    assert place.applied == [] and place.phases == []


def test_a_rollback_goes_back_step_by_step(place: Place) -> None:
    async def scenario() -> None:
        task = await place.started()
        for number in (7, 8):
            place.limit(number)
            await place.life.reload()
        rollback = place.life.handlers()["config.rollback"]
        found = await rollback({})
        assert found["schema"] == "jvpn.config-rollback/1"
        assert found["applied"] == ["handshake.under_load_per_s"]
        assert "= 7" in Path(found["restored"]).read_text()
        assert Path(found["undone"]).read_text() == place.file.read_text()
        await rollback({})
        with pytest.raises(NotFound):
            await rollback({})
        task.cancel()

    asyncio.run(scenario())
    assert place.limits == [7, 8, 7, 2000]
    assert [(act, how) for act, _, _, how in place.records[2:]] == [
        ("config.rollback", "done"),
        ("config.rollback", "done"),
        ("config.rollback", "not_found"),
    ]


def test_a_rollback_to_what_does_not_work_any_more_is_refused(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        task = await place.started()
        write_key_file(tmp_path / "new.key", bytes([5]) * 32)
        place.file.write_text('[gateway]\nprivate_key_file = "new.key"\n[log]\nlevel = "error"\n')
        await place.life.reload()
        (tmp_path / "own.key").unlink()
        with pytest.raises(Refused, match=r"own\.key"):
            await place.life.handlers()["config.rollback"]({})
        task.cancel()

    asyncio.run(scenario())
    assert len(place.applied) == 1
    assert place.phases == [True, False] * 2


# --- what is kept -------------------------------------------------------------------------------------------------


def test_history_is_bounded_private_and_in_order(tmp_path: Path) -> None:
    history = History(tmp_path, "jvpn0")
    for number in range(KEPT + 5):
        for _ in range(2):  # the same text again is no step
            assert history.record(f"[log] # {number}\n")
    assert len(history.paths()) == KEPT
    assert history.previous() == f"[log] # {KEPT + 3}\n"
    assert {stat.S_IMODE(path.stat().st_mode) for path in history.paths()} == {0o600}
    assert stat.S_IMODE(history.folder.stat().st_mode) == 0o700
    restored, undone = history.step_back()
    assert (restored.read_text(), undone.read_text()) == (f"[log] # {KEPT + 3}\n", f"[log] # {KEPT + 4}\n")
    assert stat.S_IMODE(undone.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        samples.GATEWAY,
        samples.WGQUICK,
        FILE + samples.peer(3, more=f'preshared_key = "{samples.private(8)}"\n'),
        FILE + f'# private_key = "{samples.OWN}"\n',
        f'gateway.private_key = "{samples.OWN}"\n',
        f'gateway = {{ "private_key" = "{samples.OWN}" }}\n',
        f'gateway = {{ "private\\u005fkey" = "{samples.OWN}" }}\n',
    ],
)
def test_a_text_with_a_secret_is_never_kept(tmp_path: Path, text: str) -> None:
    history = History(tmp_path, "jvpn0")
    assert history.record(FILE)
    assert not history.record(text)
    assert history.paths() == []
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(samples.OWN.encode() in data or samples.private(8).encode() in data for data in kept)


def test_names_of_key_files_are_no_secrets(tmp_path: Path) -> None:
    text = FILE + samples.peer(3, more='preshared_key_file = "credential:psk"\n')
    assert History(tmp_path, "jvpn0").record(text)


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "applied-jvpn0").write_text("in the way")
    with pytest.raises(HostError):
        History(tmp_path, "jvpn0").record(FILE)
