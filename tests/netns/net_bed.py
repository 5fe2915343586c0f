# SPDX-License-Identifier: Apache-2.0
"""Two namespaces and a cable: the place where host configuration is tried for real.

    jvnc<id>  (the machine under test)             jvno<id>  (the outside)
    near  192.0.2.2/24  2001:db8:1::2/64  <---->   far  192.0.2.1/24  2001:db8:1::1/64
    default routes by far                          lo   198.51.100.1  2001:db8:2::1

The code under test runs in a process of its own inside the machine (net_agent), which can be killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
ETC = Path("/etc/netns")
RESOLV = b"# this machine's own\nnameserver 192.0.2.53\nsearch example.org\noptions timeout:2\n"
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8:2::1"}
GATE = {4: "192.0.2.1", 6: "2001:db8:1::1"}
NEAR = {4: "192.0.2.2", 6: "2001:db8:1::2"}
CLONE_NEWNET = 0x40000000
ANSWER_TIMEOUT_S = 20

T = TypeVar("T")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
    reason="network namespaces need root, iproute2 and /dev/net/tun",
)
needs_nft = pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")


class Bed:
    """The two namespaces."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.machine, self.outside = f"jvnc{token}", f"jvno{token}"

    def build(self) -> None:
        folder = ETC / self.machine
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_bytes(RESOLV)
        for name in (self.machine, self.outside):
            sh("ip", "netns", "add", name)
            # Else link-local addresses are tentative for seconds, and neighbours are not asked for meanwhile.
            for conf in ("all", "default"):
                sh(
                    "ip",
                    "netns",
                    "exec",
                    name,
                    "sh",
                    "-c",
                    f"echo 0 > /proc/sys/net/ipv6/conf/{conf}/accept_dad",
                )
            self.ip(name, "link set lo up")
        sh(
            "ip",
            "link",
            "add",
            "near",
            "netns",
            self.machine,
            "type",
            "veth",
            "peer",
            "name",
            "far",
            "netns",
            self.outside,
        )
        for name, device, last in ((self.machine, "near", 2), (self.outside, "far", 1)):
            self.ip(name, f"addr add 192.0.2.{last}/24 dev {device}")
            self.ip(name, f"addr add 2001:db8:1::{last}/64 dev {device} nodad")
            self.ip(name, f"link set {device} up")
        for address in OUTSIDE.values():
            self.ip(self.outside, f"addr add {address} dev lo" + (" nodad" if ":" in address else ""))
        self.ip(self.machine, "route add default via 192.0.2.1")
        self.ip(self.machine, "-6 route add default via 2001:db8:1::1")

    def remove(self) -> None:
        for name in (self.machine, self.outside):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(ETC / self.machine, ignore_errors=True)

    @staticmethod
    def ip(namespace: str, command: str) -> str:
        return sh("ip", "-n", namespace, *command.split())

    def inside(self, *command: str) -> str:
        """Run a command on the machine under test."""
        return sh("ip", "netns", "exec", self.machine, *command)

    def sysctl(self, key: str, value: str | None = None) -> str:
        if value is not None:
            self.inside("sh", "-c", f"echo {value} > /proc/sys/{key}")
        return self.inside("cat", f"/proc/sys/{key}").strip()

    def snapshot(self) -> dict[str, Any]:
        """Everything that must be the same after as before."""
        queries = ("route show table all", "-6 route show table all", "rule", "-6 rule", "addr")
        seen: dict[str, Any] = {
            query: json.loads(self.ip(self.machine, f"-j {query}") or "[]") for query in queries
        }
        if shutil.which("nft"):
            seen["nft"] = self.inside("nft", "list", "ruleset")
        seen["resolv.conf"] = (ETC / self.machine / "resolv.conf").read_bytes()
        for key in (
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/conf/all/src_valid_mark",
        ):
            seen[key] = self.sysctl(key)
        return seen

    def socket(self, namespace: str, *arguments: int, bind: tuple[str, int] | None = None) -> socket.socket:
        """A socket of that namespace, usable from here."""

        def make() -> socket.socket:
            sock = socket.socket(*arguments)
            sock.settimeout(5)
            if bind:
                sock.bind(bind)
            return sock

        return in_namespace(namespace, make)

    def udp(self, namespace: str, host: str, port: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return self.socket(namespace, family, socket.SOCK_DGRAM, bind=(host, port))

    @contextmanager
    def agent(self, state: Path, interface: str = "jv0", namespace: str = "") -> Iterator[Agent]:
        agent = Agent(namespace or self.machine, state, interface)
        try:
            yield agent
        finally:
            agent.end()


class Agent:
    """A process on the machine under test that does what it is asked, one JSON line each way."""

    def __init__(self, namespace: str, state: Path, interface: str) -> None:
        module = [sys.executable, "-m", "tests.netns.net_agent", str(state), interface]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *module],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, action: str, **arguments: Any) -> Any:
        """The answer; AgentError with the HostError's text when it was refused."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([action, arguments]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "refused" in answer:
            raise AgentError(answer["refused"])
        return answer["done"]

    def kill(self) -> None:
        """As by the kernel's out-of-memory killer: no handler runs."""
        self.process.kill()
        self.process.wait(ANSWER_TIMEOUT_S)

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(ANSWER_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class AgentError(Exception):
    """The agent's HostError."""


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def in_namespace(name: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that has entered the namespace; the rest of this process stays where it is."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with open(f"/run/netns/{name}") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(work())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@pytest.fixture
def bed() -> Iterator[Bed]:
    built = Bed()
    try:
        built.build()
        yield built
    finally:
        built.remove()
