# SPDX-License-Identifier: Apache-2.0
"""The configuration of a running daemon: compared with its file, reloaded, rolled back.

Rule 1: a file is read and checked whole before anything of it is applied; one with a mistake changes nothing.
Rule 2: what the machine refuses half-way is taken back, so a configuration holds as a whole or not at all.
Rule 3: one change at a time, whoever asks; several SIGHUPs in a row are one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import structlog

from gateway.control.actor import Actor, acting
from gateway.control.confighistory import History
from gateway.control.configkeys import Config, changes, compared
from gateway.control.configreport import read_text
from gateway.control.ctlsock import Handler
from gateway.errors import ConfigErrors, JumpError, Refused, UsageError

C = TypeVar("C", bound=Config)

# Who sends a signal, the kernel does not tell the loop.
BY_SIGNAL: Final = Actor("SIGHUP", "signal")
DIFF_SCHEMA: Final = "jvpn.config-diff/1"
RELOAD_SCHEMA: Final = "jvpn.config-reload/1"
ROLLBACK_SCHEMA: Final = "jvpn.config-rollback/1"


class ConfigLife(Generic[C]):
    """One daemon's. ``running`` is what holds now: live keys of the last file applied, the others of the start.

    ``read`` makes a configuration of a text. ``take`` says what a running one takes over from another. ``apply`` makes
    the daemon be like its second argument, from whatever it is like; it returns keys that changed besides (peers.toml).
    """

    def __init__(
        self,
        running: C,
        history: History,
        log: structlog.stdlib.BoundLogger,
        *,
        read: Callable[[str, Path], C],
        take: Callable[[C, C], C],
        apply: Callable[[C], Awaitable[Sequence[str]]],
    ) -> None:
        self.running = running
        self._text = ""  # of the file in force
        self._history = history
        self._log = log
        self._read = read
        self._take = take
        self._apply = apply
        self._lock = asyncio.Lock()
        self._hung_up = asyncio.Event()
        # Around a reload or a rollback, whatever comes of it: the service manager is told.
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        # Makes a command one whose every run is a record of the audit journal.
        self.audited: Callable[[str, Handler], Handler] = lambda action, handler: handler

    def handlers(self) -> dict[str, Handler]:
        """The commands ``config.*`` of the control socket."""

        async def diff(args: dict[str, Any]) -> dict[str, Any]:
            return await self.diff(args.get("text"), args.get("file"))

        async def reload(_args: dict[str, Any]) -> dict[str, Any]:
            return await self.reload()

        async def rollback(args: dict[str, Any]) -> dict[str, Any]:
            return await self.audited("config.rollback", self._rollback)(args)

        return {"config.diff": diff, "config.reload": reload, "config.rollback": rollback}

    # --- SIGHUP -----------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """SIGHUP: reload as soon as ``serve`` runs."""
        self._hung_up.set()

    async def serve(self) -> None:
        """Answer SIGHUPs until cancelled. Begins when the daemon is ready; the file it was started with is in force."""
        self._text = await asyncio.to_thread(_text_of, self.running.path)
        await self._record()
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            try:
                with acting(BY_SIGNAL):
                    await self.reload()
            except JumpError as error:
                self._log.error("configuration not applied", reason=str(error))
            except Exception as error:  # a fault in one reload must not make the next SIGHUP go unheard
                self._log.error("configuration not applied", error=repr(error))

    # --- commands ---------------------------------------------------------------------------------------------

    async def diff(self, text: str | None = None, file: str | None = None) -> dict[str, Any]:
        """``jvpn.config-diff/1`` of the daemon's file, of another one, or of a text that stands for ``file``."""
        path = self._named(file)
        document = {"schema": DIFF_SCHEMA, "interface": self.running.interface, "file": str(path)}
        try:
            found = await self._load(path, text)
        except ConfigErrors as errors:
            return {**document, "ok": False, "errors": mistakes(errors), "changes": [], "warnings": []}
        taken = self._take(self.running, found)
        different = await asyncio.to_thread(compared, self.running, taken, found)
        listed = [change.document() for change in different]
        return {**document, "ok": True, "errors": [], "changes": listed, "warnings": list(found.warnings)}

    async def reload(self) -> dict[str, Any]:
        """``jvpn.config-reload/1``: the daemon's file is in force, or nothing has changed."""
        try:
            return await self.audited("config.reload", self._reload)({})
        except ConfigErrors as errors:
            return self._refused(errors, RELOAD_SCHEMA)

    async def _reload(self, _args: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            with self.around():
                text = await asyncio.to_thread(read_text, self.running.path)
                return await self._put_in_force(text, RELOAD_SCHEMA)

    async def _rollback(self, _args: dict[str, Any]) -> dict[str, Any]:
        """``jvpn.config-rollback/1``: the configuration before this one is in force again. The file is not written
        here: ``restored`` holds what it has to say, ``undone`` what it said. ``NotFound`` without an earlier one,
        ``Refused`` for one that does not work any more.
        """
        async with self._lock:
            text = self._history.previous()
            try:
                with self.around():
                    document = await self._put_in_force(text, ROLLBACK_SCHEMA, record=False)
            except ConfigErrors as errors:
                raise Refused(f"the earlier configuration does not work any more: {errors}") from None
            restored, undone = self._history.step_back()
            return {**document, "restored": str(restored), "undone": str(undone)}

    # --- parts ------------------------------------------------------------------------------------------------

    def _named(self, file: str | None) -> Path:
        if file is not None and (not isinstance(file, str) or not file.startswith("/")):
            raise UsageError("file must be an absolute path")
        return Path(file) if file is not None else self.running.path.absolute()

    async def _load(self, path: Path, text: str | None) -> C:
        """On a thread: a file of many peers takes a while, and packets do not wait for it."""
        if text is not None and not isinstance(text, str):
            raise UsageError("text must be a text")
        return await asyncio.to_thread(lambda: self._read(read_text(path) if text is None else text, path))

    async def _put_in_force(self, text: str, schema: str, *, record: bool = True) -> dict[str, Any]:
        found = await self._load(self.running.path, text)
        before, wanted = self.running, self._take(self.running, found)
        besides = await self._become(before, wanted)
        applied = await asyncio.to_thread(_keys, before, wanted)
        applied += [key for key in besides if key not in applied]
        waiting = await asyncio.to_thread(_keys, wanted, found)
        self._text = text
        for warning in found.warnings:
            self._log.warning("configuration", problem=warning)
        self._log.info("configuration applied", applied=applied, needs_restart=waiting)
        return {
            **self._document(schema),
            "ok": True,
            "errors": [],
            "applied": applied,
            "needs_restart": waiting,
            "warnings": list(found.warnings),
            "kept": await self._record() if record else True,
        }

    async def _become(self, before: C, wanted: C) -> Sequence[str]:
        try:
            besides = await self._apply(wanted)
        except ConfigErrors:
            raise  # nothing was touched
        except Exception as error:
            await self._take_back(before)
            if isinstance(error, JumpError):
                raise Refused(f"taken back, nothing has changed: {error}") from None
            raise
        self.running = wanted
        return besides

    async def _take_back(self, before: C) -> None:
        try:
            await self._apply(before)
        except JumpError as error:
            self._log.error("the configuration before could not be put back whole", reason=str(error))
            raise

    async def _record(self) -> bool:
        try:
            return await asyncio.to_thread(self._history.record, self._text)
        except JumpError as error:
            self._log.warning("configuration not kept for a rollback", reason=str(error))
            return False

    def _refused(self, errors: ConfigErrors, schema: str) -> dict[str, Any]:
        for error in errors.errors:
            self._log.error("configuration refused, the one before stays", problem=str(error))
        lists: dict[str, Any] = {"applied": [], "needs_restart": [], "warnings": [], "kept": False}
        return {**self._document(schema), "ok": False, "errors": mistakes(errors), **lists}

    def _document(self, schema: str) -> dict[str, Any]:
        return {
            "schema": schema,
            "interface": self.running.interface,
            "file": str(self.running.path.absolute()),
        }


def mistakes(errors: ConfigErrors) -> list[dict[str, Any]]:
    """Every mistake with file, key and line, as ``jvpn config check`` has them."""
    return [
        {"file": error.file, "key": error.key, "line": error.line, "problem": error.problem}
        for error in errors.errors
    ]


def _keys(running: Config, file: Config) -> list[str]:
    return [change.key for change in changes(running, file)]


def _text_of(path: Path) -> str:
    try:
        return read_text(path)
    except ConfigErrors:  # it was there a moment ago, when the daemon read it
        return ""
