# SPDX-License-Identifier: Apache-2.0
"""Writes jvpn(1) and jvpn.toml(5): `make man`, or `python docs/man/make.py FOLDER`.

Rule: the commands and options are click's own; the keys, types and defaults those of docs/configuration.md, which a
test holds against the configuration's schema. So a test can say whether the pages are current.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click
import roff

from gateway import __version__
from gateway.ops.cli.main import cli

FOLDER: Final = Path(__file__).resolve().parent
CONFIGURATION: Final = FOLDER.parent / "configuration.md"
# Of the last change of what the pages say.
DATE: Final = "2026-11-22"
# Their width would depend on the terminal of whoever runs this.
_CONTEXT: Final = {"terminal_width": 100, "max_content_width": 100}
# Of no interest to who has the program.
_BUILD_ROW: Final = re.compile(r"^\|.*\| of the build: .*\n", re.MULTILINE)
_EXAMPLES: Final = ("Examples:", "Example:")

ABOUT = """\
jvpn runs a gateway or a client of Jumping VPN, and asks and tells those that run. It speaks the WireGuard protocol;
between our own ends a session stays while its transports come and go.

SESSION is a peer's name or the beginning of a session's id, at least four digits. Commands find the daemon that runs
on this machine; of several, `-i IFACE` or `--socket PATH` chooses one.

Results go to standard output and everything else to standard error, in lines that begin with `jvpn: `. Output is
plain text where it is no terminal; `--json` gives a document whose `schema` names its kind and version. Private keys
and preshared keys are shown when they are made, and otherwise only with `--reveal`.
"""
SHELLS = """\
`jvpn completion bash` (zsh, fish) writes a script for the shell. It completes commands and options, and from the
daemons that run here interfaces, sessions, paths and peers.
"""


def head(name: str, number: int, about: str) -> list[str]:
    """The first lines of a page."""
    return [
        r".\" SPDX-License-Identifier: Apache-2.0",
        r".\" Made by make man; do not edit.",
        f'.TH {name.upper()} {number} {DATE} "Jumping VPN {__version__}"',
        ".SH NAME",
        rf"{name} \- {about}",
    ]


def see_also(*pages: str) -> list[str]:
    """The last section."""
    names = [page.rstrip(")").split("(") for page in pages]
    ends = [","] * (len(names) - 1) + [""]
    return [
        ".SH SEE ALSO",
        *(f".BR {name} ({number}){end}" for (name, number), end in zip(names, ends, strict=True)),
    ]


def lists(*titles: str) -> Iterator[str]:
    """Sections that docs/configuration.md has for both pages: a heading there, its name here."""
    parts = roff.headed(CONFIGURATION.read_text(), "##")
    for title in titles:
        heading, _, shown = title.partition(" as ")
        yield from roff.section(shown or heading)
        yield from roff.convert(_BUILD_ROW.sub("", parts[heading]))


# --- jvpn(1) -------------------------------------------------------------------------------------------------------


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Every command that does something, groups before what they hold."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                inner = click.Context(below, info_name=name, parent=context, **_CONTEXT)
                yield below, inner
                yield from walk(below, inner)


def commands() -> list[tuple[click.Command, click.Context]]:
    """All of them, by the order of the help."""
    return list(walk(cli, click.Context(cli, info_name="jvpn", **_CONTEXT)))


def paragraphs(help_text: str) -> Iterator[tuple[str, bool]]:
    """The paragraphs of a help text and whether they are to be shown as they are."""
    for part in inspect.cleandoc(help_text).split("\n\n"):
        literal = part.startswith("\b")
        yield part.removeprefix("\b").strip("\n"), literal


def described(command: click.Command) -> Iterator[str]:
    """The help of a command without its examples."""
    for text, literal in paragraphs(command.help or ""):
        if not text.startswith(_EXAMPLES):
            yield from roff.example(text.splitlines()) if literal else roff.paragraph(text)
    if command.epilog:
        yield from roff.paragraph(command.epilog)


def examples(command: click.Command) -> list[str]:
    """The lines of its examples."""
    found = [text for text, _ in paragraphs(command.help or "") if text.startswith(_EXAMPLES)]
    return [line.strip() for text in found for line in text.splitlines()[1:]]


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Its options but for --help, which all have."""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, meaning = record
            yield from roff.tagged(roff.bold(names.replace("  ", " ")), meaning)


def one(command: click.Command, context: click.Context) -> Iterator[str]:
    """The section of one command."""
    group = isinstance(command, click.Group)
    yield from roff.section(context.command_path, below=True)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from [".PP", *roff.filled(f"{roff.bold(context.command_path)} {roff.escape(pieces, code=True)}")]
    yield from described(command)
    if not group:
        yield from options(command, context)


def jvpn_1() -> Iterator[str]:
    """The page of the program."""
    found = commands()
    yield from head("jvpn", 1, "run and operate Jumping VPN")
    yield from [".SH SYNOPSIS", r"\fBjvpn\fR [\fB\-\-version\fR | \fB\-\-help\fR]", ".br"]
    yield from [r"\fBjvpn\fR \fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]...", ".br"]
    yield from [r"\fBjvpn\-wg\fR \fIINTERFACE\fR", ".SH DESCRIPTION"]
    yield from roff.convert(ABOUT)
    yield ".SH COMMANDS"
    yield from roff.filled(roff.inline("Every command has `-h` and `--help`."))
    for command, context in found:
        yield from one(command, context)
    yield ".SH COMPLETION"
    yield from roff.convert(SHELLS)
    yield from lists("Exit codes as Exit status", "Environment", "Where things are as Files")
    yield ".SH EXAMPLES"
    for command, _ in found:
        shown = examples(command)
        if shown:
            yield from roff.paragraph(command.get_short_help_str(100).rstrip(".") + ":")
            yield from roff.example(shown)
    yield from see_also("jvpn.toml(5)", "wg(8)", "wg-quick(8)", "ip(8)", "nft(8)")


# --- jvpn.toml(5) ----------------------------------------------------------------------------------------------------

GATEWAY = """\
A gateway with one peer, /etc/jvpn/gateway.toml (its key: `jvpn keys gen -o gateway.key`):

    [gateway]
    endpoint = "vpn.example.net:51820"

    [nat]
    enabled = true

    [[peer]]
    name = "laptop"
    public_key = "FJEdRgyoLxmHPnCwuvBMKnUpB2gTJUZ4ghgDx7sWhS8="
    allowed_ips = ["10.99.0.2/32"]
    protocol = "jump"

Looked at without being applied:

    jvpn config check /etc/jvpn/gateway.toml

And run:

    jvpn gateway -c /etc/jvpn/gateway.toml
"""
_ELSEWHERE: Final = frozenset(("Exit codes", "Environment", "Where things are", "WireGuard's own tools"))


def jvpn_toml_5() -> Iterator[str]:
    """The page of the files."""
    parts = roff.headed(CONFIGURATION.read_text(), "##")
    yield from head("jvpn.toml", 5, "configuration of a gateway and of a client of Jumping VPN")
    yield ".SH DESCRIPTION"
    intro = roff.blocks(parts[""])[2:]  # without the title and what is said to who works on the document
    yield from roff.convert("\n\n".join(intro))
    for title, text in parts.items():
        if title and title not in _ELSEWHERE:
            below = roff.headed(text, "###")
            yield from roff.section(title)
            yield from roff.convert(below.pop(""))
            for name, content in below.items():
                yield from roff.section(name, below=True)
                yield from roff.convert(content)
    yield from lists("Environment", "Where things are as Files")
    yield ".SH EXAMPLES"
    yield from roff.convert(GATEWAY)
    yield from see_also("jvpn(1)", "wg(8)", "wg-quick(8)")


def tidy(lines: Iterable[str]) -> Iterator[str]:
    """A heading begins a paragraph by itself."""
    before = ""
    for line in lines:
        if line != ".PP" or not before.startswith((".SH", ".SS")):
            yield line
        before = line


PAGES: Final = {"jvpn.1": jvpn_1, "jvpn.toml.5": jvpn_toml_5}


def main(folder: Path) -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (folder / name).write_text("\n".join(tidy(page())) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
