# SPDX-License-Identifier: Apache-2.0
"""A session's paths: which inputs each change of the network makes, and what becomes of sockets and numbers.

The sockets are real and stand on loopback addresses; the engine's table is its real bound of 16.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control import transports
from gateway.control.config import parse_client
from gateway.control.transports import GONE_KEEP_NS, OPEN_RETRY_NS, PATH_ID_REST_NS, Transports
from gateway.core.inputs import Input, LinkUp, PathAdded, PathHinted, PathLost, PathRemoved
from gateway.core.path import LINK_HOLD_NS
from gateway.core.states import Evidence, Tier
from gateway.errors import ConfigErrors, DataplaneError, HostError
from gateway.net.devices import DeviceRule, Settings
from gateway.net.udp import Sockets, open_shared
from tests.unit.control.samples import CLIENT, WGQUICK
from tests.unit.net.machine import MODEM, WIFI, machine

T0 = 1_000 * NS_PER_S
ONE = [("198.51.100.1", 51820)]
TWO = [*ONE, ("198.51.100.2", 51820)]
NO_WIFI = ("1 wlan0 down", *WIFI[1:])
BARE = machine("1 wlan0 up")
WIFI_KEY = "wlan0 192.0.2.2 > 198.51.100.1:51820"


class Table:
    """The engine's ports: ids from 0, at most 16."""

    def __init__(self) -> None:
        self.fds: dict[int, list[int]] = {}

    def add_port(self, sockets: Sockets) -> int:
        free = [n for n in range(16) if n not in self.fds]
        if not free:
            raise DataplaneError("add socket: No space left on device")
        self.fds[free[0]] = filenos(sockets)
        return free[0]

    def remove_port(self, socket_id: int) -> None:
        del self.fds[socket_id]


def filenos(sockets: Sockets) -> list[int]:
    return [sock.fileno() for sock in sockets]


class Bench:
    """A Transports whose sockets stand on loopback, and what it said and did."""

    def __init__(self, **options: object) -> None:
        self.table = Table()
        self.inputs: list[Input] = []
        self.refused = False
        self.asked: list[tuple[str, int, str, int]] = []
        settings = options.pop("settings", Settings())
        self.transports = Transports(
            self.table,
            settings=settings,
            emit=self.inputs.append,
            own_device="jv0",
            **options,
        )  # type: ignore[arg-type]

    def open_shared(self, host: str, port: int, *, workers: int, fwmark: int, device: str) -> Sockets:
        """The device and its address are text in these tests; port and family are real."""
        self.asked.append((host, port, device, fwmark))
        if self.refused:
            raise HostError("refused")
        return open_shared("::1" if ":" in host else "127.0.0.1", port, workers=workers)

    def update(self, now_ns: int, *lines: str, endpoints: list[tuple[str, int]] = ONE) -> list[Input]:
        self.inputs.clear()
        self.transports.update(now_ns, machine(*lines), endpoints)
        return list(self.inputs)

    def due(self, now_ns: int) -> list[Input]:
        self.inputs.clear()
        self.transports.timer_due(now_ns)
        return list(self.inputs)

    def ids(self) -> list[int]:
        return [path.path_id for path in self.transports.paths()]

    def consistent(self) -> bool:
        open_now = {path.socket_id: filenos(path.sockets) for path in self.transports.paths()}
        return self.table.fds == open_now and all(fd >= 0 for fds in open_now.values() for fd in fds)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bench]]:
    made: list[Bench] = []

    class Made(Bench):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            made.append(self)
            monkeypatch.setattr(transports, "open_shared", self.open_shared)

    yield Made
    for bench in made:
        assert bench.consistent()
        bench.transports.close()
        assert not bench.table.fds


def test_a_path_per_candidate_at_once(make: type[Bench]) -> None:
    bench = make(fwmark=51820, settings=Settings(devices=(DeviceRule("wwan*", "backup", 7),)))
    first, second = bench.update(T0, *WIFI, *MODEM)
    assert first == PathAdded(1, WIFI_KEY)
    assert second == PathAdded(2, "wwan0 203.0.113.2 > 198.51.100.1:51820", "udp", Tier.BACKUP, 7)
    assert bench.asked == [("192.0.2.2", 0, "wlan0", 51820), ("203.0.113.2", 0, "wwan0", 51820)]
    assert bench.transports.next_deadline_ns is None
    path = bench.transports.by_id(1)
    assert path is not None and path.endpoint == ONE[0] and path.local[1] > 0
    assert bench.transports.by_socket(path.socket_id) is path
    assert bench.update(T0 + 1, *WIFI, *MODEM) == []


@pytest.mark.parametrize(
    ("lines", "evidence"),
    [
        (NO_WIFI, Evidence.LINK_DOWN),
        ((WIFI[0], *WIFI[2:]), Evidence.ADDRESS_REMOVED),
        (WIFI[:3], Evidence.ROUTE_GONE),
    ],
)
def test_an_edge_is_told_once_in_each_direction(
    make: type[Bench], lines: tuple[str, ...], evidence: Evidence
) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    sockets = bench.transports.paths()[0].sockets
    assert bench.update(T0 + 1, *lines) == [PathLost(1, evidence)]
    assert bench.update(T0 + 2, *lines, "8 eth8 down") == []
    assert bench.transports.best(T0 + 2) is None
    assert bench.update(T0 + 3, *WIFI) == [LinkUp(1)]
    assert bench.transports.paths()[0].sockets is sockets, "the port a translator knows must stay"
    assert bench.update(T0 + 4, *WIFI) == []


def test_losses_leave_first(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI, *MODEM)
    bench.update(T0 + 1, "1 wlan0 up", *MODEM)
    lost, back = bench.update(T0 + 2, *WIFI, "2 wwan0 off")
    assert (lost, back) == (PathLost(2, Evidence.LINK_DOWN), LinkUp(1))


def test_a_new_link_must_hold(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    assert bench.update(T0 + 1, *WIFI, *MODEM) == []
    assert bench.transports.next_deadline_ns == T0 + 1 + LINK_HOLD_NS
    assert bench.due(T0 + LINK_HOLD_NS) == []
    assert bench.update(T0 + LINK_HOLD_NS, *WIFI) == []
    assert bench.update(T0 + LINK_HOLD_NS + 5, *WIFI, *MODEM) == [], (
        "it went in between: from the start again"
    )
    due_ns = bench.transports.next_deadline_ns
    assert due_ns == T0 + LINK_HOLD_NS + 5 + LINK_HOLD_NS
    assert [type(each) for each in bench.due(due_ns)] == [PathAdded]
    assert bench.transports.next_deadline_ns is None


def test_an_endpoint_need_not_hold(make: type[Bench]) -> None:
    bench = make()
    assert bench.update(T0, *WIFI, endpoints=[]) == []
    assert len(bench.update(T0 + 1, *WIFI)) == 1
    assert bench.update(T0 + 2, *WIFI, endpoints=TWO) == [
        PathAdded(2, "wlan0 192.0.2.2 > 198.51.100.2:51820")
    ]
    assert bench.update(T0 + 3, *WIFI) == [PathRemoved(2)]


def test_a_device_plugged_in_again_gets_a_new_socket_under_the_same_number(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    again = tuple(line.replace("1 ", "7 ", 1) for line in WIFI)
    sockets = bench.transports.paths()[0].sockets
    assert bench.update(T0 + 1, "2 eth0 up") == [PathLost(1, Evidence.LINK_DOWN)]
    assert bench.update(T0 + 2, *again) == [LinkUp(1)]
    assert bench.transports.paths()[0].sockets is not sockets and filenos(sockets) == [-1]
    # So fast that no snapshot showed it gone.
    assert bench.update(T0 + 3, *WIFI) == [PathLost(1, Evidence.LINK_DOWN), LinkUp(1)]


def test_a_device_that_cannot_be_bound_again_starts_anew(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    bench.refused = True
    again = tuple(line.replace("1 ", "7 ", 1) for line in WIFI)
    assert bench.update(T0 + 1, *again) == [PathLost(1, Evidence.LINK_DOWN), PathRemoved(1)]
    bench.refused = False
    assert bench.due(T0 + 1 + OPEN_RETRY_NS) == [PathAdded(2, WIFI_KEY)]


def test_a_number_rests_for_a_minute(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI, endpoints=TWO)
    bench.update(T0 + 1, *WIFI, endpoints=ONE)
    bench.update(T0 + 2, *WIFI, endpoints=TWO)
    assert bench.ids() == [1, 3]
    bench.update(T0 + 3, *WIFI, endpoints=ONE)
    bench.update(T0 + PATH_ID_REST_NS, *WIFI, endpoints=TWO)
    assert bench.ids() == [1, 4]
    bench.update(T0 + PATH_ID_REST_NS + 1, *WIFI, endpoints=[*TWO, ("198.51.100.3", 1)])
    assert bench.ids() == [1, 2, 4]


def test_when_every_number_rests_the_path_waits(make: type[Bench]) -> None:
    bench = make()
    now_ns = T0
    for _ in range(255):
        bench.update(now_ns, *WIFI)
        bench.update(now_ns, *WIFI, endpoints=[])
    assert bench.update(now_ns, *WIFI) == []
    assert bench.transports.next_deadline_ns == now_ns + OPEN_RETRY_NS
    assert bench.due(now_ns + PATH_ID_REST_NS) == [PathAdded(1, WIFI_KEY)]


def test_what_is_gone_for_long_is_forgotten(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    bench.update(T0 + 1, *NO_WIFI)
    assert bench.transports.next_deadline_ns == T0 + 1 + GONE_KEEP_NS
    assert bench.due(T0 + GONE_KEEP_NS) == []
    assert bench.due(T0 + 1 + GONE_KEEP_NS) == [PathRemoved(1)]
    assert bench.transports.next_deadline_ns is None


def test_what_is_gone_gives_way(make: type[Bench]) -> None:
    bench = make(settings=Settings(max_candidates=2))
    bench.update(T0, *WIFI, *MODEM)
    bench.update(T0 + 1, "1 wlan0 up", *MODEM)
    eth = "3 eth0 up", "3 192.0.2.3/24", "3 default"
    bench.update(T0 + 2, *eth, "2 wwan0 off")
    gone, new = bench.due(T0 + 2 + LINK_HOLD_NS)
    assert gone == PathRemoved(1), "the longest gone"
    assert new == PathAdded(3, "eth0 192.0.2.3 > 198.51.100.1:51820")
    assert len(bench.ids()) == 2


def test_a_refused_socket_is_tried_again(make: type[Bench]) -> None:
    bench = make()
    bench.refused = True
    assert bench.update(T0, *WIFI) == []
    assert bench.transports.next_deadline_ns == T0 + OPEN_RETRY_NS
    bench.refused = False
    assert bench.due(T0 + OPEN_RETRY_NS) == [PathAdded(1, WIFI_KEY)]


def test_the_engines_table_is_the_bound(make: type[Bench]) -> None:
    bench = make(settings=Settings(max_candidates=16))
    bench.table.fds = {n: [-1] for n in range(14)}
    many = [(f"198.51.100.{n}", 51820) for n in range(1, 5)]
    assert len(bench.update(T0, *WIFI, endpoints=many)) == 2
    bench.table.fds = {n: fds for n, fds in bench.table.fds.items() if fds != [-1]}
    assert len(bench.due(T0 + OPEN_RETRY_NS)) == 2


# --- socket errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENETUNREACH, errno.ENETDOWN, errno.EPERM, errno.EADDRNOTAVAIL])
def test_an_error_of_this_host_loses_the_path(make: type[Bench], error: int) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    socket_id = bench.transports.paths()[0].socket_id
    bench.inputs.clear()
    assert bench.transports.socket_failed(T0, socket_id, error)
    assert bench.transports.socket_failed(T0, socket_id, error)
    assert bench.inputs == [PathLost(1, Evidence.LOCAL_ERROR)]
    assert bench.update(T0 + 1, *WIFI) == [], "no change of the link: only the pause brings it back"


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.EHOSTUNREACH])
def test_the_networks_word_is_a_hint(make: type[Bench], error: int) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    bench.inputs.clear()
    assert bench.transports.socket_failed(T0, bench.transports.paths()[0].socket_id, error)
    assert bench.inputs == [PathHinted(1)]
    assert bench.transports.best(T0) is not None


def test_other_errors_say_nothing_about_the_path(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    bench.inputs.clear()
    assert not bench.transports.socket_failed(T0, 0, errno.EMSGSIZE)
    assert not bench.transports.socket_failed(T0, 9, errno.ENETDOWN)
    assert bench.inputs == []


def test_a_path_in_error_is_offered_again_later_each_time(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    now_ns, pauses_s = T0, []
    for _ in range(8):
        bench.transports.socket_failed(now_ns, 0, errno.ENETUNREACH)
        due_ns = bench.transports.next_deadline_ns
        assert due_ns is not None
        assert bench.due(due_ns - 1) == []
        assert bench.due(due_ns) == [LinkUp(1)]
        pauses_s.append((due_ns - now_ns) // NS_PER_S)
        now_ns = due_ns
    assert pauses_s == [1, 2, 4, 8, 16, 32, 32, 32]


def test_a_link_event_ends_the_pause(make: type[Bench]) -> None:
    bench = make()
    bench.update(T0, *WIFI)
    bench.transports.socket_failed(T0, 0, errno.ENETDOWN)
    assert bench.update(T0 + 1, *NO_WIFI) == [], "told already"
    assert bench.update(T0 + 2, *WIFI) == [LinkUp(1)]


# --- the one path for a stock gateway ----------------------------------------------------------------------------


def test_the_best_path_is_up_and_ranks_first(make: type[Bench]) -> None:
    bench = make(settings=Settings(devices=(DeviceRule("wlan*", "secondary"),)))
    bench.update(T0, *WIFI, *MODEM)
    assert [path.candidate.device for path in bench.transports.ranked(T0)] == ["wwan0", "wlan0"]
    bench.update(T0 + 1, *WIFI, "2 wwan0 off")
    assert [path.candidate.device for path in bench.transports.ranked(T0)] == ["wlan0"]
    bench.update(T0 + 2, *WIFI, *MODEM)
    best = bench.transports.best(T0 + 100 * NS_PER_MS)
    assert best is not None and best.candidate.device == "wlan0", "the other one is not believed yet"
    best = bench.transports.best(T0 + 2 + LINK_HOLD_NS)
    assert best is not None and best.candidate.device == "wwan0"


def test_the_configured_port_serves_one_path_per_address(make: type[Bench]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bench = make(listen_port=port)
    bench.update(T0, *WIFI, endpoints=TWO)
    assert [path.local[1] == port for path in bench.transports.paths()] == [True, False]


def test_every_worker_has_a_socket_of_the_paths_port(make: type[Bench]) -> None:
    bench = make(workers=3)
    bench.update(T0, *WIFI)
    (path,) = bench.transports.paths()
    assert {sock.getsockname() for sock in path.sockets} == {path.local}
    assert len(bench.table.fds[path.socket_id]) == 3
    sockets = path.sockets
    bench.update(T0 + 1, *tuple(line.replace("1 ", "7 ", 1) for line in WIFI))
    assert filenos(sockets) == [-1] * 3, "the device is another one, and so are the sockets"


# --- the configuration -------------------------------------------------------------------------------------------

TRANSPORT = """
[transport]
allowed = ["udp"]
max_candidates = 4
include = ["eth*", "wlan?"]
exclude = ["eth9"]
[[transport.device]]
name = "wwan*"
priority = "backup"
metered = true
cost = 3
[[transport.device]]
name = "*"
priority = "never"
"""


def test_the_transport_table() -> None:
    assert parse_client(CLIENT).transport == Settings()
    assert parse_client(WGQUICK, str(Path("/etc/wireguard/wg0.conf"))).transport == Settings()
    assert parse_client(CLIENT + TRANSPORT).transport == Settings(
        ("udp",),
        4,
        ("eth*", "wlan?"),
        ("eth9",),
        (DeviceRule("wwan*", "backup", 103), DeviceRule("*", "never", 0)),
    )


@pytest.mark.parametrize(
    ("line", "replacement", "key", "problem"),
    [
        ('allowed = ["udp"]', 'allowed = ["udp", "tls"]', "transport.allowed[1]", "does not exist yet"),
        ('allowed = ["udp"]', 'allowed = ["tcp"]', "transport.allowed[0]", "unknown carrier"),
        ('allowed = ["udp"]', "allowed = []", "transport.allowed", "is empty"),
        ("max_candidates = 4", "max_candidates = 17", "transport.max_candidates", "1 to 16"),
        ("max_candidates = 4", "max_candidates = 0", "transport.max_candidates", "1 to 16"),
        ('exclude = ["eth9"]', 'exclude = ["a b"]', "transport.exclude[0]", "not a device name"),
        ('name = "wwan*"', "", "transport.device[0].name", "is missing"),
        (
            'priority = "backup"',
            'priority = "bakup"',
            "transport.device[0].priority",
            'did you mean "backup"',
        ),
        ("cost = 3", "cost = -1", "transport.device[0].cost", "0 to 1000"),
        ("metered = true", "meterd = true", "transport.device[0].meterd", 'did you mean "metered"'),
    ],
)
def test_mistakes_in_the_transport_table(line: str, replacement: str, key: str, problem: str) -> None:
    assert line in TRANSPORT
    with pytest.raises(ConfigErrors) as caught:
        parse_client(CLIENT + TRANSPORT.replace(line, replacement), "vpn.toml")
    assert any(each.key == key and problem in each.problem for each in caught.value.errors)
