# SPDX-License-Identifier: Apache-2.0
"""docs/appliance.md, "Five minutes": its own commands, its own steps, from the qcow2 file to a connected phone.

    phone 10.9.0.2 ── 10.9.0.1 home: QEMU with its own network inside (10.0.2.0/24) and UDP 51820 passed on

Only what the page cannot know is replaced: the accelerator, and the terminal by a line that the test can read.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.image.accel import Accelerator
from tests.image.appliance import SERVING
from tests.image.artifacts import Artifacts
from tests.image.bundles import run
from tests.image.camera import scan
from tests.image.console import Console
from tests.image.machine import BOOT_TIMEOUT_S, Hardware, Machine
from tests.net.lab import REPO, Lab, Namespace
from tests.net.traffic import wait_reachable
from tests.net.wg import WgQuick

PAGE: Final = REPO / "docs" / "appliance.md"
HOME: Final = "10.9.0.1"
PASSWORD: Final = "correct horse battery"
ANSWER_S: Final = 90.0
# What somebody types at each question, in the order in which they may come; an empty answer takes what is in brackets.
ANSWERS: Final = (
    (r"find this box from outside.*: $", HOME),
    (r"(?i)password.*: $", PASSWORD),
    (r"(?i)once more.*: $", PASSWORD),
    (r"first client now\?.*: $", ""),
    (r"Name of the client.*: $", "phone"),
    (r": $", ""),
)


@dataclass(frozen=True, slots=True)
class Written(Hardware):
    """Hardware as the page's command says it."""

    words: tuple[str, ...] = ()

    def argv(self, folder: Path) -> list[str]:
        """The page's words."""
        return [*self.words, "-display", "none"]


def commands() -> list[str]:
    """The lines of the first block under the heading."""
    section = re.split(r"(?m)^## ", PAGE.read_text())[1]
    assert section.startswith("Five minutes")
    return re.findall(r"(?m)^    (\S.*)$", section)


@pytest.fixture
def box(lab: Lab, artifacts: Artifacts, accelerator: Accelerator) -> Iterator[Machine]:
    """The box of the page, in a namespace that is somebody's machine."""
    create, start = commands()
    image = re.search(r"jumping-vpn-\S+\.qcow2", create)
    assert image is not None
    (lab.tmp / image[0]).symlink_to(artifacts.qcow2.resolve())
    run(["bash", "-c", f"cd {shlex.quote(str(lab.tmp))} && {create}"])
    words = shlex.split(start.replace("file=", f"file={lab.tmp}/"))
    assert words[0] == "qemu-system-x86_64"
    left = [word for word in words[1:] if word not in ("-accel", "kvm", "tcg", "-nographic")]
    made = Machine(lab, "newcomer", Written(words=tuple(left)), accelerator, lab.namespace("home"))
    made.start()
    yield made
    made.pull_plug()


def test_from_the_file_to_a_connected_phone(lab: Lab, box: Machine) -> None:
    console = box.console
    console.wait(SERVING, BOOT_TIMEOUT_S)
    text = set_up(console)
    assert box.rack is not None
    phone = lab.namespace("phone")
    lab.link(box.rack, phone, "10.9.0.0/24")
    stock = WgQuick(lab, phone, scan(text)).start()
    wait_reachable(phone, gateway_of(scan(text)), 60)
    # Out into a network behind the box: QEMU's own router answers there under the box's address.
    assert reaches(phone, "10.0.2.2"), stock.show()
    mark = console.mark()
    console.send("\n")
    console.wait(r"serving, 1 session", ANSWER_S, mark=mark)
    stock.stop()


def set_up(console: Console) -> str:
    """Answer what the console asks, until the code is on the screen; returns what was shown since."""
    mark = console.mark()
    console.send("\n")
    while True:
        question = console.wait(r"[^\n]*: \Z", ANSWER_S, mark=mark)[0]
        answer = next(answer for pattern, answer in ANSWERS if re.search(pattern, question))
        mark = console.mark()
        console.send(answer + "\n")
        if answer == "phone":
            console.wait(r"Enter goes on\. \Z", ANSWER_S, mark=mark)
            return console.since(mark)


def gateway_of(text: str) -> str:
    """The gateway's inner address: the first of the network that the phone's own address is of."""
    address = re.search(r"(?m)^Address *= *([\d.]+)", text)
    assert address is not None
    return address[1].rsplit(".", 1)[0] + ".1"


def reaches(phone: Namespace, host: str) -> bool:
    """Whether something at that address answers a connection, be it with a refusal."""
    with phone.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        return sock.connect_ex((host, 9)) in (0, 111)
