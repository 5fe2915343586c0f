# SPDX-License-Identifier: Apache-2.0
"""The console as a person meets it: on a terminal (pty), with what is typed and what is read."""

from __future__ import annotations

import codecs
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from appliance.guest import change, files, firstboot, password, settings, status
from appliance.guest.console import main, page
from appliance.guest.console.desk import Desk
from appliance.guest.console.terminal import CLEAR, Closed, Idle, Terminal
from appliance.guest.host import Done
from appliance.guest.settings import Link
from tests.unit.appliance.box import Box

WORD = "correct horse"
# Of real time: a machine under load may stop for long, and what is waited for comes at once otherwise.
WAIT_S = 100.0


class Person:
    """Sits at the other end of the terminal."""

    def __init__(self, master: int) -> None:
        self._master, self.seen, self._read_to = master, "", 0
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def sees(self, text: str) -> str:
        """Wait until it appears after what was seen before; what came up to it."""
        until_s = time.monotonic() + WAIT_S
        while (at := self.seen.find(text, self._read_to)) < 0:
            ready, _, _ = select.select([self._master], [], [], max(0.0, until_s - time.monotonic()))
            assert ready, f"{text!r} did not come; there was:\n{self.seen[self._read_to :]}"
            self.seen += self._decode(os.read(self._master, 65536)).replace("\r", "")
        before = self.seen[self._read_to : at]
        self._read_to = at + len(text)
        return before

    def types(self, line: str = "") -> None:
        os.write(self._master, f"{line}\n".encode())


class Console:
    """A console on a pty, in a thread of its own."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.master, self.slave = os.openpty()
        self.person = Person(self.master)
        self.spawned: list[list[str]] = []
        self.slept: list[float] = []
        self.spawn: Callable[[Sequence[str]], int] = lambda _command: 0
        self.desk = Desk(
            terminal=Terminal(self.slave, self.slave),
            layout=box.layout,
            run=box.programs,
            spawn=self._spawn,
            random_bytes=box.random,
            unix_s=lambda: 1_000_000_000,
            now_s=lambda: float(len(self.slept)),
            sleep=self.slept.append,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while True:
                main.turn(self.desk)
        except Closed:
            pass

    def _spawn(self, command: Sequence[str]) -> int:
        self.spawned.append(list(command))
        return self.spawn(command)

    def close(self) -> None:
        os.close(self.master)
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        os.close(self.slave)


@pytest.fixture
def console(booted: Box) -> Iterator[Console]:
    made = Console(booted)
    yield made
    made.close()


@pytest.fixture
def person(console: Console) -> Person:
    return console.person


def set_up(box: Box) -> None:
    """As if the wizard had run."""
    password.store(box.layout.admin_hash, password.hashed(WORD))
    firstboot.remember(box.layout, "console")


def log_in(person: Person) -> None:
    person.sees("Press Enter for the menu.")
    person.types()
    person.sees("Password of the administrator")
    person.types(WORD)
    person.sees("Choose, Enter goes back: ")


@pytest.fixture
def inside(booted: Box) -> Iterator[Console]:
    """Logged in, before the menu."""
    set_up(booted)
    made = Console(booted)
    log_in(made.person)
    yield made
    made.close()


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_box_is(console: Console, person: Person) -> None:
    shown = person.sees("Press Enter")
    assert "Jumping VPN 9.9.9   slot a   jumping-vpn" in shown
    assert "gateway    not running" in shown
    assert status.public_key(console.box.layout) in shown
    lines = [line[:20].rstrip() for line in plain(shown)]
    assert "wan        ens3" in lines and "lan        ens4" in lines


def test_it_is_drawn_again_only_when_something_changed(
    console: Console, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "REFRESH_S", 0.05)
    person.sees("Press Enter")
    looked = threading.Semaphore(0)
    real = status.collect

    def counted(*arguments: object, **named: object) -> status.Status:
        looked.release()
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(status, "collect", counted)
    for _ in range(4):
        assert looked.acquire(timeout=WAIT_S)
    files.write(console.box.layout.settings, settings.encode(settings.Settings(hostname="renamed")))
    person.sees("renamed")
    person.sees("Press Enter")
    assert person.seen.count(CLEAR) == 2


def test_a_refused_configuration_is_on_the_page(booted: Box) -> None:
    booted.credential('#jvpn-config\n[appliance]\nhostnam = "x"\n')
    booted.boot()
    made = Console(booted)
    shown = made.person.sees("Press Enter")
    assert "configuration refused: user-data:3: appliance.hostnam: unknown key; did you mean" in shown
    made.close()


def test_a_file_with_which_the_gateway_cannot_start_is_on_the_page(booted: Box) -> None:
    with booted.layout.gateway_file.open("a") as file:
        file.write("[natt]\n")
    assert status.collect(booted.layout).problems[0].endswith('natt: unknown key; did you mean "nat"?')
    files.write(booted.layout.gateway_file, "")
    assert not status.collect(booted.layout).problems


def sample(**named: object) -> status.Status:
    found = status.Status(
        version="1.0",
        slot="a",
        hostname="gw",
        gateway="serving, 3 sessions of 9 peers",
        serving=True,
        public_key="B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=",
        networks=(
            status.Network("wan", "ens3", True, ("192.0.2.10", "2001:db8:1234:5678:9abc:def0:1234:5678")),
            status.Network("lan", "ens4", False, ()),
        ),
        problems=(),
        notes=(),
        source="console",
        password_set=True,
        pending_change="",
        update="",
    )
    import msgspec

    return msgspec.structs.replace(found, **named)


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")


@pytest.mark.parametrize(
    ("rows", "columns", "code"),
    [(24, 80, True), (25, 132, True), (23, 80, False), (24, 79, False)],
)
def test_the_page_fits_its_window(rows: int, columns: int, code: bool) -> None:
    lines = plain(page.screen(sample(), rows, columns))
    assert len(lines) <= rows
    assert all(len(line) <= columns for line in lines)
    assert ("█" in "".join(lines)) == code
    assert "gateway    serving, 3 sessions of 9 peers" in lines
    assert any("2001:db8:1234:5678:9abc:def0:1234:5678" in line for line in lines)


def test_problems_are_more_important_than_a_code() -> None:
    lines = plain(page.screen(sample(problems=("configuration refused: " + "x " * 60,)), 24, 80))
    assert "█" not in "".join(lines)
    assert all(len(line) <= 80 for line in lines)
    assert "configuration refused" in "".join(lines)


# --- the way in -----------------------------------------------------------------------------------------------------


def test_a_wrong_password_three_times_costs_a_wait_that_grows(booted: Box) -> None:
    set_up(booted)
    made = Console(booted)
    for wait in ("5", "10"):
        made.person.sees("Press Enter for the menu.")
        made.person.types()
        for _ in range(3):
            made.person.sees("Password of the administrator")
            made.person.types("wrong horse")
        made.person.sees(f"Wait for {wait} seconds.")
    log_in(made.person)
    assert made.slept == [5.0, 10.0]
    made.close()
    assert "wrong horse" not in made.person.seen and WORD not in made.person.seen


def test_who_leaves_the_menu_must_log_in_again(inside: Console) -> None:
    inside.person.types()
    log_in(inside.person)


def test_a_menu_that_was_left_open_closes_itself() -> None:
    reader, writer = os.pipe()
    with pytest.raises(Idle):
        Terminal(reader, writer, idle_s=0.01).line("? ")
    os.close(writer)
    with pytest.raises(Closed):
        Terminal(reader, reader).poll_line(1.0)
    os.close(reader)


def test_a_line_without_an_end_takes_no_memory() -> None:
    reader, writer = os.pipe()
    terminal = Terminal(reader, writer)
    for _ in range(20):
        os.write(writer, b"x" * 4096)
        assert terminal.poll_line(0.0) is None
    os.write(writer, b"\n")
    line = terminal.poll_line(1.0)
    assert line is not None and len(line) <= 16384
    os.close(reader)
    os.close(writer)


# --- the wizard -----------------------------------------------------------------------------------------------------


def test_the_wizard_sets_a_box_up(console: Console, person: Person) -> None:
    person.sees("Not set up yet. Press Enter")
    person.types()
    person.sees("Name of this box [jumping-vpn]: ")
    person.types("gw-test")
    person.sees("WAN: where clients and the Internet are (ens3)")
    person.sees("Interface [ens3]: ")
    person.types("eth7")
    person.sees("one of ens3, ens4")
    person.types()
    person.sees("Address: dhcp, or ADDRESS/LENGTH [dhcp]: ")
    person.types("192.0.2.10")
    person.sees("has no prefix length")
    person.types("192.0.2.10/24")
    person.sees("Gateway (- for none) [-]: ")
    person.types("192.0.2.1")
    person.sees("Name servers (- for none) [-]: ")
    person.types("9.9.9.9, 149.112.112.112")
    person.sees("LAN: management (ens4)")
    person.types()
    person.sees("[dhcp]: ")
    person.types()
    person.sees("Enter leaves it: ")
    person.types("ssh-ed25519 AAAAC3Nz me")
    person.sees("Enter applies this, n leaves it as it is: ")
    person.types()
    person.sees("(- for later)")
    person.types("vpn.example.net")
    person.sees("New password of the administrator: ")
    person.types("short")
    person.sees("8 to 512 characters")
    person.sees("New password of the administrator: ")
    person.types(WORD)
    person.sees("Once more: ")
    person.types(WORD)
    person.sees("Add a first client now?")
    person.types("n")
    person.sees("Choose, Enter goes back: ")
    layout = console.box.layout
    found = settings.read(layout.settings)
    assert found.hostname == "gw-test" and found.ssh_keys == ("ssh-ed25519 AAAAC3Nz me",)
    dns = ("9.9.9.9", "149.112.112.112")
    assert found.links[0] == Link("wan", "ens3", ("192.0.2.10/24",), ("192.0.2.1",), dns, dhcp=False)
    assert "Address=192.0.2.10/24" in (layout.networkd / "10-jvpn-wan.network").read_text()
    assert layout.ssh_wanted.exists()
    assert password.verify(password.stored(layout.admin_hash), WORD)
    assert firstboot.applied(layout).source == "console"
    assert change.pending(layout) is None


# --- the menu -------------------------------------------------------------------------------------------------------


def serving(monkeypatch: pytest.MonkeyPatch, *, serves: bool = True) -> None:
    """What the gateway's socket would say after a change: there is no gateway in a unit test."""
    line = "serving, 0 sessions of 0 peers" if serves else "not running"
    monkeypatch.setattr(status, "gateway_line", lambda _layout: (serves, line))


def paste(person: Person, text: str) -> None:
    person.types("3")
    person.sees("Choose, Enter goes back: ")
    person.types("3")
    person.sees("full stop ends it.")
    for line in (*text.splitlines(), "."):
        person.types(line)


def test_a_pasted_file_is_checked_shown_and_kept_only_on_request(
    inside: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch)
    person, layout = inside.person, inside.box.layout
    before = layout.gateway_file.read_text()
    paste(person, before.replace("[nat]", "[natt]"))
    person.sees("natt: unknown key")
    person.sees("Choose, Enter goes back: ")
    person.types()
    person.sees("Choose, Enter goes back: ")
    paste(person, before.replace("enabled = true", "enabled = false"))
    person.sees("-enabled = true")
    person.sees("+enabled = false")
    person.sees("Apply this? Type yes: ")
    person.types("yes")
    person.sees("Keep it? Type yes within 120 seconds")
    assert "enabled = false" in layout.gateway_file.read_text()
    person.types("no")
    person.sees("took back the change of gateway.toml")
    assert layout.gateway_file.read_text() == before


def test_a_file_with_which_the_gateway_does_not_serve_is_taken_back(
    inside: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch, serves=False)
    person, layout = inside.person, inside.box.layout
    before = layout.gateway_file.read_text()
    paste(person, before.replace("enabled = true", "enabled = false"))
    person.sees("Apply this? Type yes: ")
    person.types("yes")
    person.sees("taken back, the gateway does not serve with it: not running")
    assert layout.gateway_file.read_text() == before


def test_an_editor_that_leaves_a_mistake_is_called_again(
    inside: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch)
    monkeypatch.setattr("appliance.guest.console.configuration.shutil.which", lambda _name: "/usr/bin/nano")
    text = inside.box.layout.gateway_file.read_text()
    texts = ["[gateway\n", text.replace("keep_files = 8", "keep_files = 4")]

    def edit(command: Sequence[str]) -> int:
        Path(command[1]).write_text(texts.pop(0))
        return 0

    inside.spawn = edit
    person = inside.person
    person.types("3")
    person.sees("Choose, Enter goes back: ")
    person.types("2")
    person.sees("not valid TOML")
    person.sees("Enter edits it again, q gives up: ")
    person.types()
    person.sees("Apply this? Type yes: ")
    person.types("yes")
    person.sees("Keep it?")
    person.types("yes")
    person.sees("Kept.")
    assert "keep_files = 4" in inside.box.layout.gateway_file.read_text()


def test_adding_a_client_shows_its_file_once(inside: Console) -> None:
    person = inside.person
    person.types("1")
    person.sees("Choose, Enter goes back: ")
    person.types("2")
    person.sees("Name of the client")
    person.types("not a name")
    person.sees("not a name")
    person.types("phone")
    person.sees("Enter goes on.")
    assert inside.spawned == [["jvpn", "peer", "add", "phone", "--qr"]]


def medium(box: Box, folder: Path) -> None:
    """A medium with the label; mounting it shows the folder's files, unmounting keeps them there."""
    (box.layout.by_label / "JVPN-BAK").write_text("")

    def answer(command: Sequence[str], _text: str) -> Done | None:
        if command[0] == "mount":
            Path(command[-1]).rmdir()
            Path(command[-1]).symlink_to(folder)
        elif command[0] == "umount":
            Path(command[-1]).unlink()
        return None

    box.programs.answer = answer


def test_a_backup_on_a_medium_and_back(inside: Console, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("medium")
    medium(inside.box, folder)
    person, layout = inside.person, inside.box.layout
    person.types("4")
    person.sees("Choose, Enter goes back: ")
    person.types("1")
    person.sees("Passphrase for this backup: ")
    person.types("correct horse battery")
    person.sees("Once more: ")
    person.types("correct horse battery")
    person.sees("Without the passphrase nobody can read it")
    assert [path.name for path in folder.iterdir()] == ["jumping-vpn-20010909-014640.jvpnbak"]
    person.sees("Choose, Enter goes back: ")
    person.types("4")
    person.sees("Choose, Enter goes back: ")
    person.types("2")
    person.sees("Choose, Enter goes back: ")
    person.types("1")
    person.sees("Its passphrase: ")
    person.types("another one entirely")
    person.sees("wrong passphrase")
    assert not layout.restore_marker.exists()
    person.sees("Choose, Enter goes back: ")
    for answer, question in (("4", "Choose, "), ("2", "Choose, "), ("1", "Its passphrase: ")):
        person.types(answer)
        person.sees(question)
    person.types("correct horse battery")
    person.sees("and reboot? Type yes: ")
    person.types("yes")
    person.sees("Choose, Enter goes back: ")
    assert layout.restore_marker.exists()
    assert inside.box.programs.ran("systemctl", "reboot")


def test_without_a_medium_it_says_how_to_make_one(inside: Console) -> None:
    inside.person.types("6")
    inside.person.sees("Choose, Enter goes back: ")
    inside.person.types("4")
    inside.person.sees("no medium with the label JVPN-BAK; make one with: mkfs.vfat -n JVPN-BAK")


@pytest.mark.parametrize("word", ["yes", "reset"])
def test_a_factory_reset_wants_its_own_word(inside: Console, word: str) -> None:
    inside.person.types("8")
    inside.person.sees("Type reset to do it: ")
    inside.person.types(word)
    inside.person.sees("Choose, Enter goes back: ")
    assert inside.box.layout.reset_marker.exists() == (word == "reset")
    assert bool(inside.box.programs.ran("systemctl", "reboot")) == (word == "reset")


def test_the_shell_is_behind_the_password(inside: Console) -> None:
    inside.person.types("s")
    inside.person.sees("Choose, Enter goes back: ")
    assert inside.spawned == [["/bin/bash", "-l"]]


def test_networks_changed_on_the_console_come_back_when_nobody_keeps_them(inside: Console) -> None:
    person, layout = inside.person, inside.box.layout
    person.types("2")
    person.sees("Name of this box")
    person.types("locked-out")
    for question in ("Interface [ens3]", "[dhcp]", "Interface [ens4]", "[dhcp]", "Enter leaves it: "):
        person.sees(question)
        person.types()
    person.sees("Apply this? Type yes: ")
    person.types("yes")
    person.sees("Keep it? Type yes within 90 seconds")
    assert layout.hostname.read_text() == "locked-out\n"
    person.types()
    person.sees("took back the change of settings.json")
    assert layout.hostname.read_text() == "jumping-vpn\n"
