# SPDX-License-Identifier: Apache-2.0
"""The commands update, rollback, confirm and install of ``jvpn-appliance``; its console uses the same functions."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from appliance.update import source
from appliance.update.apply import Apply, verify_slot
from appliance.update.bundle import BundleReader, Manifest, Progress
from appliance.update.confirm import Confirm, Say, Standing, Trial
from appliance.update.disk import RealDisk
from appliance.update.install import Machine, Medium, install, require_block_device, require_disk
from appliance.update.places import Places
from appliance.update.programs import Run, mounted_esp, mounted_medium, run
from appliance.update.record import LastUpdate, Record
from appliance.update.selftest import World, passes_traffic
from appliance.update.sign import read_key
from appliance.update.slots import Slots
from gateway.errors import HostError, JumpError, NotFound, Refused, TryLater, UsageError

LIVE_MEDIUM: Final = "run/live"


class Meter:
    """Progress for people: one line that is rewritten on a terminal, a line per step elsewhere."""

    def __init__(self, say: Say, terminal: bool) -> None:
        self._say = say
        self._terminal = terminal
        self._shown = ("", -1)

    def __call__(self, what: str, done: int, total: int) -> None:
        share = done * 100 // total if total else 0
        if (what, share) == self._shown or (not self._terminal and what == self._shown[0]):
            return
        if self._terminal:
            ending = "\n" if total and done >= total else ""
            amount = f"{share:3d} %" if total else f"{done >> 20} MiB"
            sys.stderr.write(f"\r{what:<28} {amount:>9}{ending}")
            sys.stderr.flush()
        else:
            self._say(what)
        self._shown = (what, share)


class Updater:
    """The commands' work on one machine."""

    def __init__(self, root: Path, say: Say, run_: Run = run, progress: Progress | None = None) -> None:
        self.places = Places(root)
        self.disk = RealDisk()
        self.record = Record(self.places, self.disk)
        self._run = run_
        self._say = say
        self._progress = progress or Meter(say, sys.stderr.isatty())

    def update(self, bundle: str, allow_older: bool) -> None:
        """Write a bundle into the other slot; the next start tries it."""
        with self._alone(), mounted_esp(self.places, self._run):
            slots = Slots(self.places, self.disk)
            apply = Apply(slots, self.record, self._progress)

            def judge(manifest: Manifest) -> None:
                apply.judge(manifest, allow_older)
                self._say(
                    f"version {manifest.version}, serial {manifest.serial}: signed, for slot {slots.other}"
                )

            with self._opened(bundle, judge) as reader:
                apply.write(reader, self._serves())
        self._say(f"slot {slots.other} is written and verified; the next start tries it")

    def update_from_medium(self, allow_older: bool) -> None:
        """The same with the one bundle of a medium labelled JVPN-UPD."""
        device = self.places.label(source.MEDIUM_LABEL)
        if not device.exists():
            raise NotFound(f"no medium with the label {source.MEDIUM_LABEL} is there")
        with mounted_medium(device, self.places.medium, self._run) as folder:
            path = source.on_medium(folder)
            self._say(f"found {path.name}")
            self.update(str(path), allow_older)

    def rollback(self) -> None:
        """Back to the other slot by a trial of its own; or take back an update that was not tried yet."""
        with self._alone(), mounted_esp(self.places, self._run):
            slots = Slots(self.places, self.disk)
            if slots.state().trial_is_due:
                slots.disarm()
                self._say(
                    f"slot {slots.other} is not tried any more; slot {slots.running} is started as before"
                )
                return
            slots.require_settled()
            verify_slot(slots, slots.other, self._progress)
            config = slots.config(slots.other)
            if config is None:
                raise HostError(f"slot {slots.other} is gone")
            self.record.set_last(
                LastUpdate(slots.other, config.version, config.serial, 0, self._serves(), "written")
            )
            slots.arm(slots.other)
        self._say(f"the next start tries slot {slots.other}, version {config.version}")

    def confirm(self, with_test: bool) -> None:
        """By hand: this slot stays."""
        slots = Slots(self.places, self.disk)
        _ = slots.other  # the live system refuses here
        if with_test:
            self._say(self._passes_traffic())
        Confirm(slots, self.record, self._mounted, self._say).settle()

    def confirm_start(self) -> Standing:
        """What the unit runs after each start."""
        trial = Trial(self._passes_traffic, self._comes_up, time.monotonic, time.sleep)
        slots = Slots(self.places, self.disk)
        return Confirm(slots, self.record, self._mounted, self._say).after_start(trial)

    def install(self, device: Path, agreed: Callable[[str, str], bool]) -> None:
        """The live system onto a disk. ``agreed`` is asked with a sentence and the disk's name."""
        require_block_device(device)
        facts = require_disk(Machine(self.places.root), device)
        medium = Medium(self.places.root / LIVE_MEDIUM)
        if not agreed(facts.sentence(), facts.name):
            raise Refused("nothing was written")
        config = install(medium, device, self.disk, self._run, self._progress)
        self._say(f"version {config.version} is on {facts.name}; remove the medium and restart")

    def restart(self) -> None:
        """The way down is systemd's."""
        self._run(["systemctl", "reboot"], "")

    @contextlib.contextmanager
    def _opened(self, bundle: str, judge: source.Judge) -> Iterator[BundleReader]:
        key = read_key(self.places.public_key)
        if source.is_address(bundle):
            opened = source.from_address(bundle, key, judge, self._progress, self.places.own)
        else:
            opened = source.from_file(Path(bundle), key, judge, self._progress)
        with opened as reader:
            yield reader

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One update at a time; the lock goes with the process."""
        self.places.own.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.places.own / "update.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TryLater("another update is under way") from None
            yield
        finally:
            os.close(descriptor)

    def _mounted(self) -> AbstractContextManager[None]:
        return mounted_esp(self.places, self._run)

    def _passes_traffic(self) -> str:
        return passes_traffic(self.places.runtime, World(time.time_ns, secrets.token_bytes))

    def _serves(self) -> bool:
        """Whether the gateway passes traffic now: after the switch it must do so again."""
        try:
            self._passes_traffic()
        except (JumpError, OSError) as error:
            self._say(
                f"the gateway passes no traffic now ({error}); the new system will be confirmed once it is up"
            )
            return False
        return True

    def _comes_up(self) -> str:
        self._run(["systemctl", "is-active", "--quiet", "basic.target"], "")
        return "the system is up; the gateway did not serve before the update either"


def update_from_medium(root: Path, say: Say) -> int:
    """The console's entry; the exit code."""
    return _reported(lambda: Updater(root, say).update_from_medium(allow_older=False), say)


def _reported(work: Callable[[], object], say: Say) -> int:
    try:
        work()
    except JumpError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: {error.filename or 'disk'}: {error.strerror}")
        return 1
    return 0


# --- the command line ----------------------------------------------------------------------------------------------


def add_commands(subparsers: Any) -> None:
    """Adds four parsers; each sets ``run``, a function of the namespace that returns the exit code."""
    update = _parser(subparsers, "update", _update, "install a signed update into the other slot", _UPDATE)
    update.add_argument("bundle", nargs="?", metavar="FILE|URL", help="the bundle, or its https address")
    update.add_argument(
        "--medium", action="store_true", help="take the bundle from a medium labelled JVPN-UPD"
    )
    update.add_argument(
        "--allow-older", action="store_true", help="take one that is not newer than what runs"
    )
    update.add_argument("--reboot", action="store_true", help="restart at once, which tries it")
    rollback = _parser(subparsers, "rollback", _rollback, "go back to the other slot", _ROLLBACK)
    rollback.add_argument("--reboot", action="store_true", help="restart at once")
    confirm = _parser(subparsers, "confirm", _confirm, "keep the slot that runs", _CONFIRM)
    confirm.add_argument("--boot", action="store_true", help="as the unit does after each start")
    confirm.add_argument(
        "--without-test", action="store_true", help="whether or not the gateway passes traffic"
    )
    put = _parser(subparsers, "install", _install, "put the live system onto a disk", _INSTALL)
    put.add_argument("device", type=Path, metavar="DISK", help="such as /dev/sda; everything on it is lost")
    put.add_argument("--yes", action="store_true", help="do not ask for the disk's name")


_UPDATE: Final = """\
The bundle must be signed with this image's key and newer than what runs. It is written into the slot that does not
run and read back. The next start tries it once: it stays only if the gateway passes traffic within three minutes,
else the machine restarts into the slot that runs now."""
_ROLLBACK: Final = """\
Before the restart it takes an update back. Afterwards it has the next start try the other slot, which is verified first
and must pass the same test as an update."""
_CONFIRM: Final = (
    "Makes the running slot the one to start, after the self-test: a packet through the tunnel and back."
)
_INSTALL: Final = """\
From the live system of the ISO only. Everything on the disk is lost; the configuration made in the live system is not
taken along (back it up and restore it)."""


def _parser(
    subparsers: Any, name: str, function: Callable[[argparse.Namespace], int], short: str, long: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=short, description=long)
    parser.set_defaults(run=function)
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _updater(asked: argparse.Namespace) -> Updater:
    return Updater(getattr(asked, "root", Path("/")), _say)


def _update(asked: argparse.Namespace) -> int:
    updater = _updater(asked)
    if asked.medium == bool(asked.bundle):
        raise UsageError("name a file or an https address, or --medium")
    if asked.medium:
        updater.update_from_medium(asked.allow_older)
    else:
        updater.update(asked.bundle, asked.allow_older)
    return _restart(updater, asked.reboot)


def _rollback(asked: argparse.Namespace) -> int:
    updater = _updater(asked)
    updater.rollback()
    return _restart(updater, asked.reboot)


def _restart(updater: Updater, wanted: bool) -> int:
    if wanted:
        updater.restart()
    else:
        _say("restart when it suits: systemctl reboot")
    return 0


def _confirm(asked: argparse.Namespace) -> int:
    updater = _updater(asked)
    if asked.boot:
        _say(f"slot: {updater.confirm_start().value}")
    else:
        updater.confirm(not asked.without_test)
    return 0


def _install(asked: argparse.Namespace) -> int:
    _updater(asked).install(asked.device, lambda sentence, name: asked.yes or _asked(sentence, name))
    return 0


def _asked(sentence: str, name: str) -> bool:
    """Everything is lost: the name has to be typed."""
    try:
        return input(f"{sentence}\nEverything on it will be lost. Type {name} to go on: ").strip() == name
    except EOFError:
        return False
