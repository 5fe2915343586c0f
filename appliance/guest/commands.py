# SPDX-License-Identifier: Apache-2.0
"""The commands of the guest part, each a function of the parsed command line that returns the exit code.

What only some of them need (libsodium, psutil, HTTP, tar) is imported by these: each boot waits for `firstboot`, and on
an emulated machine an import of 50 ms is two seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.guest import change, files, firstboot, gatewayfile, grow, host, password, reset
from appliance.guest.layout import Layout
from gateway.errors import Refused, UsageError

# A restart on a machine without hardware virtualisation takes half of this.
SERVING_WITHIN_S: Final = 60.0
# printk's level of an error: shown although the console is quiet.
_KERNEL_ERROR: Final = "<3>"
OWN: Final = frozenset(
    ("firstboot", "grow", "console", "status", "config", "backup", "restore", "reset", "support", "password")
)
Subparsers = Any  # argparse's own type for this is private


def add_commands(subparsers: Subparsers) -> None:
    """Put all of them on the command line."""
    _add(subparsers, "firstboot", _firstboot, "what each boot does before network and gateway start")
    _add(subparsers, "grow", _grow, "grow the data partition to the end of its disk")
    console = _add(subparsers, "console", _console, "status page and menu, on this terminal")
    console.add_argument("--once", action="store_true", help="print the status page and end")
    shown = _add(subparsers, "status", _status, "what this box is doing")
    shown.add_argument("--json", action="store_true", help="as a JSON document")
    _add_config(subparsers)
    _add_backup(subparsers)
    _add_rest(subparsers)


def _add(subparsers: Subparsers, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    made.set_defaults(run=run)
    return made


def _add_config(subparsers: Subparsers) -> None:
    config = subparsers.add_parser("config", help="check, apply, keep or take back a gateway.toml")
    below = config.add_subparsers(metavar="ACTION", required=True)
    checked = _add(below, "check", _config_check, "check a gateway.toml and change nothing")
    checked.add_argument("file", type=Path)
    applied = _add(below, "apply", _config_apply, "put a gateway.toml in force")
    applied.add_argument("file", type=Path)
    applied.add_argument(
        "--keep-within",
        type=int,
        default=0,
        metavar="SECONDS",
        help="take it back by itself unless `config keep` comes within so many seconds",
    )
    _add(below, "keep", _config_keep, "keep the change that waits for a confirmation")
    _add(below, "revert", _config_revert, "take that change back now")


def _add_backup(subparsers: Subparsers) -> None:
    saved = _add(subparsers, "backup", _backup, "write configuration, keys and peers into one encrypted file")
    saved.add_argument("file", help="a new file, or - for standard output")
    _passphrase_option(saved)
    put_back = _add(subparsers, "restore", _restore, "check a backup and put it in force with a reboot")
    put_back.add_argument("file", type=Path)
    _passphrase_option(put_back)
    put_back.add_argument("--yes", action="store_true", help="replace what is here and reboot without asking")
    put_back.add_argument("--no-reboot", action="store_true", help="leave the reboot to you")


def _passphrase_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line is the passphrase; else you are asked",
    )


def _add_rest(subparsers: Subparsers) -> None:
    wiped = _add(
        subparsers, "reset", _reset, "factory reset: remove everything, keys included, with a reboot"
    )
    wiped.add_argument("--yes", action="store_true", help="do it without asking")
    wiped.add_argument("--no-reboot", action="store_true", help="leave the reboot to you")
    bundle = _add(subparsers, "support", _support, "write a support bundle, without secrets")
    bundle.add_argument("file", help="a new file (.tar.gz), or - for standard output")
    word = _add(subparsers, "password", _password, "set the administrator's password of the console")
    word.add_argument("--print", action="store_true", help="only print the hash, for admin_password_hash")
    word.add_argument("--stdin", action="store_true", help="read it from standard input, one line")


def _layout(namespace: Namespace) -> Layout:
    return Layout(namespace.root)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- boot ----------------------------------------------------------------------------------------------------------


def _firstboot(namespace: Namespace) -> int:
    layout = _layout(namespace)
    report = firstboot.run_boot(layout, host.run, secrets.token_bytes, os.environ)
    for line in (*report.notes, *report.problems):
        _say(line)
    for line in report.problems:
        with contextlib.suppress(OSError):
            layout.kernel_log.write_text(f"{_KERNEL_ERROR}jvpn-appliance: {line}\n")
    return 0


def _grow(namespace: Namespace) -> int:
    _say(grow.grow(_layout(namespace), host.run) or "the data partition is as large as its disk lets it be")
    return 0


# --- looking -------------------------------------------------------------------------------------------------------


def _status(namespace: Namespace) -> int:
    from appliance.guest import status, updatepart

    layout = _layout(namespace)
    found = status.collect(layout, update=updatepart.lines(layout.root))
    if namespace.json:
        _say(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        from appliance.guest.console import page

        _say(page.text(found, columns=100))
    return 0


def _console(namespace: Namespace) -> int:
    from appliance.guest import status
    from appliance.guest.console import main, page

    layout = _layout(namespace)
    if namespace.once:
        _say(page.text(status.collect(layout), columns=80))
        return 0
    return main.run(layout)


def _support(namespace: Namespace) -> int:
    from appliance.guest import support

    layout = _layout(namespace)
    if namespace.file == "-":
        support.write(layout, host.run, sys.stdout.buffer, unix_s=int(time.time()))
    else:
        support.to_file(layout, host.run, Path(namespace.file), unix_s=int(time.time()))
    return 0


# --- configuration -------------------------------------------------------------------------------------------------


def _config_check(namespace: Namespace) -> int:
    layout = _layout(namespace)
    found = gatewayfile.check(
        gatewayfile.read(namespace.file), str(namespace.file), layout.config, layout.state
    )
    for warning in gatewayfile.warnings(found):
        sys.stderr.write(f"warning: {warning}\n")
    _say(f"{namespace.file}: ok")
    return 0


def _config_apply(namespace: Namespace) -> int:
    layout = _layout(namespace)
    text = gatewayfile.read(namespace.file)
    gatewayfile.check(text, str(namespace.file), layout.config, layout.state)
    if text.encode() == files.read(layout.gateway_file):
        raise Refused(f"{namespace.file} is what is in force already")
    said = change.commit(
        layout,
        host.run,
        change.GATEWAY,
        text,
        keep_within_s=namespace.keep_within,
        healthy=lambda: serving(layout),
    )
    for line in said:
        _say(line)
    within = namespace.keep_within
    _say(f"applied; `jvpn-appliance config keep` within {within} s keeps it" if within else "applied")
    return 0


def serving(layout: Layout) -> str:
    """Wait for the gateway after a change; '' or what is wrong."""
    from appliance.guest import status

    return status.wait_serving(layout, within_s=SERVING_WITHIN_S, now_s=time.monotonic, sleep=time.sleep)


def _config_keep(namespace: Namespace) -> int:
    _say(f"kept the change of {change.confirm(_layout(namespace), host.run)}")
    return 0


def _config_revert(namespace: Namespace) -> int:
    for line in change.take_back(_layout(namespace), host.run):
        _say(line)
    return 0


# --- backup, reset, password ---------------------------------------------------------------------------------------


def _backup(namespace: Namespace) -> int:
    from appliance.guest import backup

    layout, now = _layout(namespace), int(time.time())
    phrase = _passphrase(namespace, twice=True)
    if namespace.file == "-":
        backup.write(layout, sys.stdout.buffer, phrase, unix_s=now, random_bytes=secrets.token_bytes)
        return 0
    count = backup.to_file(layout, Path(namespace.file), phrase, unix_s=now, random_bytes=secrets.token_bytes)
    _say(f"{namespace.file}: {count} files. Without the passphrase nobody can read it, you neither")
    return 0


def _restore(namespace: Namespace) -> int:
    from appliance.guest import restore

    layout = _layout(namespace)
    manifest = restore.from_file(layout, namespace.file, _passphrase(namespace, twice=False))
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest.made_unix_s))
    _say(f"a backup of {manifest.hostname or 'a gateway'}, version {manifest.version}, made {made}")
    if not (namespace.yes or _agreed("replace this box's configuration, keys and peers?")):
        raise Refused("nothing was changed")
    restore.approve(layout)
    return _with_reboot(namespace, "it is put in place by the next boot")


def _reset(namespace: Namespace) -> int:
    if not (namespace.yes or _agreed("remove configuration, keys, peers and sessions of this box for good?")):
        raise Refused("nothing was changed")
    reset.request(_layout(namespace))
    return _with_reboot(namespace, "the next boot removes everything")


def _with_reboot(namespace: Namespace, text: str) -> int:
    _say(text)
    if not namespace.no_reboot:
        host.require(host.run, ["systemctl", "reboot"])
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to ask; say --yes")
    return input(f"{question} Type yes: ").strip() == "yes"


def _passphrase(namespace: Namespace, *, twice: bool) -> str:
    from appliance.guest import sealed

    if namespace.passphrase_file is not None:
        text = files.read(namespace.passphrase_file)
        if text is None:
            raise UsageError(f"{namespace.passphrase_file} cannot be read")
        phrase = text.decode("utf-8", "replace").split("\n", 1)[0].rstrip("\r")
    else:
        phrase = _asked("Passphrase: ", twice=twice)
    return sealed.check_passphrase(phrase)


def _asked(prompt: str, *, twice: bool) -> str:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to ask; give --passphrase-file FILE")
    first = getpass.getpass(prompt)
    if twice and getpass.getpass("Once more: ") != first:
        raise UsageError("these two were not the same")
    return first


def _password(namespace: Namespace) -> int:
    word = sys.stdin.readline().rstrip("\n") if namespace.stdin else _asked("Password: ", twice=True)
    try:
        hash_ = password.hashed(password.acceptable(word))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if namespace.print:
        _say(hash_)
    else:
        password.store(_layout(namespace).admin_hash, hash_)
        _say("the console asks for it from now on")
    return 0
