# SPDX-License-Identifier: Apache-2.0
"""Every command of the README, docs/operations.md, docs/cli.md and the EXAMPLES of the man pages is executed as it
stands there, on the machines that newcomer.py draws. RULES says where and how; a line that no rule knows fails.
"""

from __future__ import annotations

import re
import secrets
import signal
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import pytest

from gateway.control import journald
from tests.e2e.newcomer import ADDRESS, Newcomer, Place, wait_until
from tests.net.lab import REPO, Lab, missing_requirements
from tests.net.wg import SOCKETS, Keys

PROGRAMS: Final = ("ip", "sysctl", "ping", "nft", "curl", "wg", "wg-quick", "wireguard-go")
MISSING: Final = missing_requirements(PROGRAMS)
lab_only = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
PAGES: Final = ("README.md", "docs/operations.md", "docs/cli.md")
MAN: Final = ("docs/man/jvpn.1", "docs/man/jvpn.toml.5")
STAYS_S: Final = 20.0
UNITS: Final = {path.stem for path in (REPO / "gateway/ops/systemd").glob("*.service")}


# --- the lines -----------------------------------------------------------------------------------------------------


def blocks(page: str) -> Iterator[str]:
    """The indented blocks of a document."""
    for block in re.split(r"\n\s*\n", (REPO / page).read_text()):
        if block.startswith("    "):
            yield textwrap.dedent(block)


_ESCAPES: Final = {"-": "-", "(aq": "'", "(ga": "`", "(ti": "~", "(ha": "^", "&": "", "e": "\\"}


_YAML: Final = re.compile(r" *(?:- )?[\w]+:(?: .*)?| *- .*")


def examples(page: str) -> Iterator[str]:
    """The blocks of a man page's EXAMPLES, as they read."""
    section = re.split(r"^\.SH ", (REPO / page).read_text(), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith("EXAMPLES\n"))
    for block in re.findall(r"^\.EX\n(.*?)^\.EE$", text, re.MULTILINE | re.DOTALL):
        yield re.sub(r"\\(\(\w\w|.)", lambda escape: _ESCAPES[escape[1]], block)


def is_file(block: str) -> bool:
    """A file, not commands: YAML by its form; TOML begins with a table and can be read."""
    if all(_YAML.fullmatch(line) for line in block.splitlines()):
        return True
    if not block.startswith(("[", "#")):
        return False
    tomllib.loads(block)
    return True


def lines(block: str) -> Iterator[str]:
    """Its commands without prompt, remark and what is printed for the reader alone."""
    for line in block.replace("\\\n", " ").splitlines():
        command = re.split(r"\s{3,}(?=[a-z#])|\s+# ", line.removeprefix("$ "))[0].strip()
        if command:
            yield command.replace(".venv/bin/", "")


def documented() -> list[str]:
    """All of them, each once."""
    found = [
        *(block for page in PAGES for block in blocks(page)),
        *(block for page in MAN for block in examples(page)),
    ]
    return list(dict.fromkeys(line for block in found if not is_file(block) for line in lines(block)))


# --- the rules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """``line`` is a pattern for the whole command. ``at``: which machine; spare: a fresh one each time. unit:
    needs systemd as the first process; here only that the unit is one of ours, the appliance's guest runs it.

    ``stays``: it runs until Ctrl-C, which ends it with ``ends``; by then ``shows`` has been seen, or a daemon answers.
    ``before`` makes on a fresh machine what the line needs.
    """

    line: str
    at: Literal["gateway", "laptop", "spare", "here"] = "gateway"
    stays: bool = False
    shows: str = ""
    ends: int = 0
    before: str = ""


CLIENT: Final = "client"  # `before`: a running client of the gateway named office
CHANGE: Final = "printf '[handshake]\\nunder_load_per_s = 900\\n' >> s/gateway.toml"
RULES: Final = (
    # What builds and tests is executed by .ci/run; here that the target exists and makes sense.
    Rule(r"make [a-z -]+", "here"),
    # systemd does not run here: that the unit exists, and that a line of its log has the field.
    Rule(r"(systemctl|journalctl) .*", "here"),
    Rule(r"cp .*/examples/.*", "spare"),
    Rule(r"jvpn gateway( -c .*)?", "spare", stays=True, before="jvpn keys gen -o gateway.key"),
    Rule(r"jvpn connect -c .*", "spare", stays=True),
    Rule(r"jvpn disconnect.*", "spare", before=CLIENT),
    Rule(r"jvpn drain.*"),
    Rule(r"jvpn config diff( .*)?", before="cp s/gateway.toml gateway.toml.new && cp s/gateway.key ."),
    Rule(r"jvpn config reload"),
    Rule(r"jvpn config rollback", before=f"{CHANGE} && jvpn config reload"),
    Rule(r"jvpn (config check|doctor -c) .*", "spare", before="jvpn keys gen -o gateway.key"),
    Rule(r"jvpn (status|sessions|paths|ping|timeline|why|doctor|audit)\b.*"),
    Rule(r"jvpn events.*--follow.*", stays=True, shows="UTC"),
    Rule(r"jvpn events.*"),
    Rule(r"jvpn switch .*"),
    Rule(r"jvpn terminate .*", "spare", before=CLIENT),
    Rule(r"jvpn peer list"),
    Rule(r"jvpn peer add .*", "spare"),
    Rule(r"jvpn peer (show|remove) phone.*", "spare", before="jvpn peer add phone"),
    Rule(r"jvpn (keys|completion) .*", "spare", before="mkdir -p .config/fish/completions"),
    Rule(r"(jvpn wg|WG_QUICK_USERSPACE_IMPLEMENTATION=jvpn-wg wg-quick up) .*", "spare"),
    Rule(r"curl .*/events.*", stays=True, shows="event", ends=-signal.SIGINT),
    Rule(r"curl .*"),
)


def rule_for(line: str) -> Rule:
    """The first that fits."""
    found = [rule for rule in RULES if re.fullmatch(rule.line, line)]
    if not found:
        pytest.fail(f"no rule for this documented command: {line}")
    return found[0]


def test_there_are_commands_and_each_has_a_rule() -> None:
    found = documented()
    assert len(found) > 50
    used = {rule_for(line).line for line in found}
    assert [rule.line for rule in RULES if rule.line not in used] == []


def test_a_command_without_a_rule_is_seen() -> None:
    with pytest.raises(pytest.fail.Exception, match="no rule"):
        rule_for("jvpn frobnicate")
    assert list(lines("jvpn x --y     what it does\n$ jvpn z # remark\n")) == ["jvpn x --y", "jvpn z"]
    assert is_file("[gateway]\nmtu = 1400\n") and is_file("a:\n  - b: c\n") and not is_file("jvpn status\n")


# --- placeholders --------------------------------------------------------------------------------------------------


def filled(line: str, place: Newcomer, where: Place) -> str:
    """The line with what a reader puts in for the names of the documents."""
    where.folder.joinpath("etc").mkdir(exist_ok=True)
    gateway, folder = place.gateway, where.folder
    interface = f"jd{secrets.token_hex(4)}"
    table = {
        "YOUR.ADDRESS": ADDRESS,
        "KEY": Keys.generate().public,
        "3fa9": place.session_id("laptop")[:8] if "3fa9" in line else "",
        "--path 2": f"--path {place.standby_at_gateway()}" if "--path 2" in line else "",
        "switch laptop 2": f"switch laptop {place.standby_at_gateway()}" if "switch laptop 2" in line else "",
        "/etc/jvpn/gateway.toml.new": str(folder / "gateway.toml.new"),
        "/etc/jvpn/gateway.toml": str(folder / "gateway.toml"),
        "/etc/jvpn/gateway.key": str(folder / "etc/gateway.key"),
        "/usr/share/doc/jumping-vpn/examples": str(REPO / "gateway/ops/systemd/examples"),
        "--state-dir /var/lib/jvpn": f"--state-dir {where.state}",
        "/backup/audit": str(gateway.state / "audit"),
        "/run/jvpn/jvpn0.http": str(gateway.runtime / "jvpn0.http"),
        "/run/office/control.sock": str(folder / "office.sock"),
        "/etc/bash_completion.d/": f"{folder}/",
        "${fpath[1]}": str(folder),
        "--at 5m": "--at 0s",  # the session is not five minutes old
        "wg-quick up wg0": f"wg-quick up {folder}/{interface}.conf",
        "wg0": interface,
    }
    if not line.startswith(("jvpn wg", "WG_QUICK")):
        del table["wg0"]
    else:
        place.lab.remove_later(SOCKETS / f"{interface}.sock")
        keys = f"PrivateKey = {Keys.generate().private}\n"
        (folder / f"{interface}.conf").touch(mode=0o600)
        (folder / f"{interface}.conf").write_text(f"[Interface]\n{keys}")
    for name, meant in table.items():
        line = line.replace(name, meant)
    return line


GATEWAY_TOML: Final = '[gateway]\ninterface = "{}"\n\n[stats]\nenabled = false\n'
CLIENT_TOML: Final = """\
[client]
interface = "office"
private_key = "{PrivateKey}"
addresses = ["{Address}"]
[gateway]
public_key = "{PublicKey}"
endpoints = ["{Endpoint}"]
allowed_ips = ["10.0.0.0/8"]
"""


def furnish(place: Newcomer, where: Place, line: str, before: str) -> None:
    """The files that a line names, and what it takes for granted."""
    (where.folder / "gateway.toml").write_text(GATEWAY_TOML.format("jg0"))
    if before == CLIENT or "connect" in line:
        quick = place.new_peer(f"p{secrets.token_hex(4)}")
        values = dict(re.findall(r"^(\w+) = (.*)$", quick, re.MULTILINE))
        values["Address"] = values["Address"].split(",")[0]
        toml = CLIENT_TOML.format(**values)
        if "control.sock" in line:
            toml += f'[control]\nsocket = "{where.folder}/office.sock"\n'
        for name, text in (("vpn.toml", toml), ("wg0.conf", quick), ("laptop.conf", quick)):
            (where.folder / name).write_text(text)
    if before == CLIENT:
        client = where.spawn("jvpn connect -c vpn.toml", f"office-{where.folder.name}")
        where.wait_daemon(client)
        name = "sessions --json"
        socket = f" --socket {where.folder}/office.sock" if "control.sock" in line else ""
        wait_until(lambda: bool(where.json(f"jvpn {name}{socket}")["sessions"]), "a session")
    elif before:
        where.run(before)


# --- running them --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(lab: Lab) -> Newcomer:
    """One for all lines."""
    return Newcomer(lab)


@lab_only
@pytest.mark.parametrize("line", documented())
def test_it_works(place: Newcomer, line: str) -> None:
    rule = rule_for(line)
    if rule.at == "here" and not line.startswith("make"):
        assert set(re.findall(r"jvpn-\w+|jvpn@", line)) <= UNITS
        assert all(journald.field_name(name) == field for field, name in re.findall(r"(JVPN_(\w+))=", line))
        return
    if rule.at == "here":
        assert place.gateway.run(f"make -C {REPO} --no-print-directory -n {line.removeprefix('make ')}")[1]
        return
    where = place.spare() if rule.at == "spare" else getattr(place, rule.at)
    furnish(place, where, line, rule.before)
    if "terminate" in line:
        line = line.replace("laptop", where.json("jvpn sessions --json")["sessions"][0]["session_id"])
    command = filled(line, place, where)
    if rule.stays:
        stay(place, where, command, rule)
    else:
        code, out, err = where.run(command, check=False)
        assert code == 0, out + err
        sound(place, out + err)


def sound(place: Newcomer, shown: str) -> None:
    """No traceback, no escape sequence where there is no terminal, no secret of the machines."""
    assert "Traceback" not in shown
    assert "\x1b" not in shown
    assert not [secret for secret in place.secrets() if secret in shown]


def stay(place: Newcomer, where: Place, command: str, rule: Rule) -> None:
    """Run it until it does what it is for, then Ctrl-C."""
    proc = where.spawn(command, f"stay-{secrets.token_hex(4)}")
    if rule.shows:
        proc.wait_line(rule.shows, STAYS_S)
    else:
        where.wait_daemon(proc)
    proc.signal(signal.SIGINT)
    assert proc.wait(STAYS_S) == rule.ends, proc.output
    sound(place, proc.output)
