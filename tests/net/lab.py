# SPDX-License-Identifier: Apache-2.0
"""Network namespaces and veth links as a small declarative library.

Rule: everything a `Lab` makes is in namespaces of its own and is gone when its ``with`` block ends:
normally, by an exception, by SIGINT or SIGTERM; what a killed owner leaves is removed by the next `Lab`.

    with Lab() as lab:                        client ──────── gateway
        client = lab.namespace("client")         10.1.0.1   10.1.0.2
        gateway = lab.namespace("gateway")
        lab.link(client, gateway, "10.1.0.0/24", "fd01::/64")
        client.run(["ping", "-c1", "10.1.0.2"])
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, NamedTuple

from tests.net.ledger import NETNS_ETC, Ledger, remove_namespace, sweep
from tests.net.proc import LabError, Proc

__all__ = ["Lab", "LabError", "Link", "Namespace", "Proc", "missing_requirements", "python_module"]

REPO: Final = Path(__file__).resolve().parents[2]
CLONE_NEWNET: Final = 0x40000000
RUN_TIMEOUT_S: Final = 60.0
PROGRAMS: Final = ("ip", "sysctl", "ping", "wg", "wireguard-go")
# Addresses must work at once (no duplicate address detection), and only from us (no router advertisements);
# reverse path filtering would drop what arrives from the second transport; a full rate of ICMP errors makes
# tests repeatable.
SYSCTLS: Final = {
    f"net.{family}.conf.{scope}.{key}": value
    for scope in ("all", "default")
    for family, key, value in (
        ("ipv6", "disable_ipv6", 0),
        ("ipv6", "accept_dad", 0),
        ("ipv6", "dad_transmits", 0),
        ("ipv6", "accept_ra", 0),
        ("ipv6", "autoconf", 0),
        ("ipv6", "router_solicitations", 0),
        ("ipv4", "rp_filter", 0),
    )
} | {"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0}
# A lab has no name server; 192.0.2.0/24 is for documentation (RFC 5737) and never answers.
RESOLV_CONF: Final = "nameserver 192.0.2.53\n"


def missing_requirements(programs: Sequence[str] = PROGRAMS) -> str | None:
    """Why no laboratory can be built here, or None when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if absent := [program for program in programs if shutil.which(program) is None]:
        return f"not installed: {', '.join(absent)}"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    return None


def python_module(name: str, *args: str) -> list[str]:
    """Argument vector that runs a module of this checkout with the running interpreter."""
    return [sys.executable, "-m", name, *args]


class Namespace:
    """A network namespace with its own resolv.conf."""

    def __init__(self, lab: Lab, name: str, role: str) -> None:
        self._lab, self.name, self.role = lab, name, role
        self._devices = 0

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = RUN_TIMEOUT_S,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return it with its output; LabError unless it succeeds or ``check``
        is False.
        """
        done = subprocess.run(
            self.wrap(argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=REPO,
            env=_environment(env),
        )
        if check and done.returncode != 0:
            raise LabError(
                f"{self.role}: {' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def spawn(
        self, argv: Sequence[str], name: str | None = None, env: Mapping[str, str] | None = None
    ) -> Proc:
        """Start a command inside; it is stopped with the laboratory at the latest."""
        return self._lab.spawn(self.wrap(argv), name or f"{self.role}-{Path(argv[0]).name}", env)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The argument vector that runs ``argv`` inside."""
        return ["ip", "netns", "exec", self.name, *argv]

    def ip(self, *args: str, check: bool = True) -> str:
        """``ip ARGS`` inside, without a process in between."""
        return _ip("-n", self.name, *args, check=check)

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        """Set kernel parameters of this namespace; those that this kernel lacks are ignored."""
        self.run(["sysctl", "-eqw", *(f"{key}={value}" for key, value in values.items())])

    def forward(self) -> None:
        """Make it a router for IPv4 and IPv6."""
        self.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})

    def add_address(self, dev: str, *addresses: str) -> None:
        """Add addresses with their prefix length to a device."""
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.ip("address", "add", address, "dev", dev, *nodad)

    def add_route(
        self, prefix: str, via: str | None = None, dev: str | None = None, metric: int | None = None
    ) -> None:
        """Add a route; ``prefix`` may be ``default`` (the family then follows ``via``)."""
        family = ["-6"] if ":" in (via or prefix) else []
        hop = (["via", via] if via else []) + (["dev", dev] if dev else [])
        _ip(
            "-n",
            self.name,
            *family,
            "route",
            "add",
            prefix,
            *hop,
            *(["metric", str(metric)] if metric else []),
        )

    def del_route(self, prefix: str, via: str | None = None) -> None:
        """Remove a route."""
        family = ["-6"] if ":" in (via or prefix) else []
        _ip("-n", self.name, *family, "route", "del", prefix, *(["via", via] if via else []))

    def devices(self) -> list[str]:
        """Names of the devices inside, loopback among them."""
        return [
            line.split(":")[1].split("@")[0].strip() for line in self.ip("-o", "link", "show").splitlines()
        ]

    def next_device(self) -> str:
        """The next free ``ethN``."""
        self._devices += 1
        return f"eth{self._devices - 1}"

    def open_socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0
    ) -> socket.socket:
        """A socket of this process that lives inside the namespace."""
        made: list[socket.socket] = []
        # Only the calling thread changes its namespace, and it ends here.
        worker = threading.Thread(target=self._make_socket, args=(made, family, kind, protocol))
        worker.start()
        worker.join()
        if not made:
            raise LabError(f"{self.role}: no socket in the namespace")
        return made[0]

    def _make_socket(self, made: list[socket.socket], family: int, kind: int, protocol: int) -> None:
        with open(f"/run/netns/{self.name}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0:
                made.append(socket.socket(family, kind, protocol))


class End(NamedTuple):
    """One end of a link. Addresses are without a prefix length, None for a family the link does not have."""

    namespace: Namespace
    dev: str
    address4: str | None
    address6: str | None


class Link(NamedTuple):
    """A veth pair. End ``a`` has the first address of each subnet, end ``b`` the second."""

    a: End
    b: End

    def down(self, end: str = "b") -> None:
        """Take one end down: the other one loses its carrier, as with a pulled cable at the far side."""
        self._set(end, "down")

    def up(self, end: str = "b") -> None:
        """Bring that end up again, with the addresses it had; routes other than the connected ones are
        gone.
        """
        self._set(end, "up")

    def mtu(self, size_bytes: int) -> None:
        """Set the MTU of both ends."""
        for end in self:
            end.namespace.ip("link", "set", end.dev, "mtu", str(size_bytes))

    def _set(self, end: str, state: str) -> None:
        which = self.a if end == "a" else self.b
        which.namespace.ip("link", "set", which.dev, state)


class Lab:
    """Owner of namespaces, links and processes; a context manager. ``tmp`` is a folder that lives as long."""

    def __init__(self, keep_logs: bool = False) -> None:
        self._keep_logs = keep_logs
        self._namespaces: dict[str, Namespace] = {}
        self._procs: list[Proc] = []
        self._names: dict[str, int] = {}

    def __enter__(self) -> Lab:
        if (problem := missing_requirements(("ip", "sysctl"))) is not None:
            raise LabError(problem)
        self._restore = _raise_on_termination()
        sweep()
        self._ledger = Ledger()
        self.token = self._ledger.token
        self.tmp = Path(tempfile.mkdtemp(prefix=f"jvlab-{self.token}-"))
        if not self._keep_logs:
            self._ledger.remove_later(self.tmp)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process and remove everything; a second Ctrl-C waits until it is done."""
        with _signals_blocked():
            for proc in self._procs:
                proc.signal(signal.SIGTERM)
            for proc in self._procs:
                proc.stop(timeout_s=2.0)
            self._ledger.clear()
            self._restore()

    def namespace(self, role: str) -> Namespace:
        """A new namespace named ``jv`` + token + role, with loopback up and IPv6 ready at once."""
        name = f"jv{self.token}{role}"
        self._ledger.namespace(name)
        (NETNS_ETC / name).mkdir(parents=True, exist_ok=True)
        (NETNS_ETC / name / "resolv.conf").write_text(RESOLV_CONF)
        _ip("netns", "add", name)
        made = self._namespaces[role] = Namespace(self, name, role)
        made.sysctl(SYSCTLS)
        made.ip("link", "set", "lo", "up")
        return made

    def remove_namespace(self, namespace: Namespace) -> None:
        """Remove one namespace with what runs in it, before the laboratory ends."""
        del self._namespaces[namespace.role]
        remove_namespace(namespace.name)

    def link(
        self,
        a: Namespace,
        b: Namespace,
        subnet4: str | None = None,
        subnet6: str | None = None,
        mtu: int = 1500,
        names: tuple[str, str] | None = None,
    ) -> Link:
        """Connect two namespaces with a veth pair, both ends up and addressed."""
        dev_a, dev_b = names or (a.next_device(), b.next_device())
        size = ("mtu", str(mtu))
        pair = ("type", "veth", "peer", "name", dev_b, "netns", b.name, *size)
        _ip("link", "add", dev_a, "netns", a.name, *size, *pair)
        for namespace, dev in ((a, dev_a), (b, dev_b)):
            # With IPv6 addresses kept, a link that goes down and comes back has what it had.
            namespace.sysctl({f"net.ipv6.conf.{dev}.keep_addr_on_down": 1})
            namespace.ip("link", "set", dev, "up")
        return Link(_end(a, dev_a, 1, subnet4, subnet6), _end(b, dev_b, 2, subnet4, subnet6))

    def delete_link(self, link: Link) -> None:
        """Remove a veth pair."""
        link.a.namespace.ip("link", "del", link.a.dev)

    def spawn(self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None) -> Proc:
        """Start a command outside every namespace of the laboratory (loopback only, please)."""
        count = self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 1 else f"{name}.{count}"
        proc = Proc(argv, unique, self.tmp, _environment(env), REPO)
        self._procs.append(proc)
        self._ledger.process(proc.pid)
        return proc

    def remove_later(self, path: Path | str) -> None:
        """Remove this file with the laboratory, also when its owner is killed."""
        self._ledger.remove_later(path)


def _end(namespace: Namespace, dev: str, host: int, subnet4: str | None, subnet6: str | None) -> End:
    found: list[str | None] = []
    for subnet in (subnet4, subnet6):
        network = None if subnet is None else ipaddress.ip_network(subnet)
        if network is not None:
            namespace.add_address(dev, f"{network[host]}/{network.prefixlen}")
        found.append(None if network is None else str(network[host]))
    return End(namespace, dev, *found)


def _ip(*args: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S)
    if check and done.returncode != 0:
        raise LabError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(extra or {})}


def _raise_on_termination() -> _Restore:
    """Turn SIGTERM and SIGHUP into SystemExit, so that ``with`` blocks end in order; returns what undoes
    that.
    """
    if threading.current_thread() is not threading.main_thread():
        return _Restore(())
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _exit_by_signal)
    return _Restore(tuple(numbers))


class _Restore(NamedTuple):
    numbers: tuple[signal.Signals, ...]

    def __call__(self) -> None:
        for number in self.numbers:
            signal.signal(number, signal.SIG_DFL)


def _exit_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
