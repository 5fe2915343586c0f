# SPDX-License-Identifier: Apache-2.0
"""Which combinations of device, address and endpoint become paths, and what the snapshot says against one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.states import Evidence, Tier
from gateway.net.candidates import Candidate, candidates, lost_because
from gateway.net.devices import METERED_COST, DeviceRule, Settings
from gateway.net.linkstate import ROUTES_MAX, Tables
from gateway.net.rtmessages import Change
from tests.unit.net.machine import MODEM, WIFI, machine, row

DEFAULTS = Settings()
ONE = [("198.51.100.1", 51820)]
BOTH = [("198.51.100.1", 51820), ("2001:db8:ffff::1", 51820)]
WIFI6 = ("1 2001:db8:1::2/64", "1 default6 via fe80::1 metric 1024")


def keys(*lines: str, endpoints: list[tuple[str, int]] = ONE, settings: Settings = DEFAULTS) -> list[str]:
    return [each.key for each in candidates(machine(*lines), endpoints, settings, own_device="jv0")]


def test_a_path_per_device() -> None:
    first, second = candidates(machine(*WIFI, *MODEM), ONE, Settings())
    key = "wlan0 192.0.2.2 > 198.51.100.1:51820"
    assert first == Candidate("wlan0", 1, "192.0.2.2", ONE[0], "udp", Tier.PRIMARY, 0, key)
    assert second.key == "wwan0 203.0.113.2 > 198.51.100.1:51820"


def test_a_path_per_family() -> None:
    assert keys(*WIFI, *WIFI6, endpoints=BOTH) == [
        "wlan0 192.0.2.2 > 198.51.100.1:51820",
        "wlan0 2001:db8:1::2 > [2001:db8:ffff::1]:51820",
    ]
    assert keys(*WIFI, endpoints=BOTH[1:]) == []


@pytest.mark.parametrize(
    "lines",
    [
        ("1 wlan0 down", *WIFI[1:]),
        ("1 wlan0 off", *WIFI[1:]),
        (WIFI[0], *WIFI[2:]),
        WIFI[:3],
        (*WIFI[:3], "9 default via 192.0.2.1"),
        (*WIFI[:3], "1 203.0.113.0/24 via 192.0.2.1"),
    ],
    ids=["no carrier", "off", "no address", "no route", "another device's route", "a route elsewhere"],
)
def test_what_a_path_needs(lines: tuple[str, ...]) -> None:
    assert keys(*lines) == []


def test_a_covering_route_is_as_good_as_a_default_and_so_is_one_of_another_table() -> None:
    assert len(keys(*WIFI[:3], "1 198.51.100.0/24 via 192.0.2.1")) == 1
    assert len(keys(*WIFI[:3], "1 default via 192.0.2.1 table 100")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "169.254.3.4/16 link",
        "169.254.3.4/16",
        "127.1.2.3/8 host",
        "fe80::2/64 link",
        "2001:db8:1::2/64 tentative",
        "2001:db8:1::2/64 dadfailed",
        "2001:db8:1::2/64 temporary",
        "2001:db8:1::2/64 temporary deprecated",
    ],
)
def test_addresses_that_carry_nothing(text: str) -> None:
    assert keys("1 wlan0 up", f"1 {text}", "1 default", "1 default6", endpoints=BOTH) == []


def test_secondary_and_optimistic_addresses_are_fine() -> None:
    assert len(keys("1 wlan0 up", "1 192.0.2.9/24 temporary", "1 default")) == 1  # IPv4: "secondary"
    text = "1 2001:db8:1::2/64 tentative optimistic"
    assert len(keys("1 wlan0 up", text, "1 default6", endpoints=BOTH)) == 1


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        (("1 192.0.2.9/24", "1 192.0.2.3/24", "1 default"), "192.0.2.3"),
        (("1 192.0.2.3/24 deprecated", "1 192.0.2.9/24", "1 default"), "192.0.2.9"),
        (("1 10.0.0.2/24", "1 192.0.2.9/24", "1 default via 192.0.2.1"), "192.0.2.9"),
        (("1 192.0.2.3/24", "1 192.0.2.9/24", "1 default via 192.0.2.1 src 192.0.2.9"), "192.0.2.9"),
        (("1 192.0.2.3/24 deprecated", "1 default"), "192.0.2.3"),
    ],
    ids=["lowest", "not deprecated", "next hop's network", "the route's own", "better than nothing"],
)
def test_one_address_per_device_and_family(lines: tuple[str, ...], chosen: str) -> None:
    assert keys("1 wlan0 up", *lines) == [f"wlan0 {chosen} > 198.51.100.1:51820"]


def test_an_address_in_use_stays_while_it_works() -> None:
    before = machine("1 wlan0 up", "1 192.0.2.9/24", "1 default")
    (path,) = candidates(before, ONE, Settings())
    after = machine("1 wlan0 up", "1 192.0.2.9/24", "1 192.0.2.3/24", "1 default")
    assert candidates(after, ONE, Settings(), keep={path.key}) == (path,)


def test_a_deprecated_address_in_use_gets_its_successor_beside_it() -> None:
    lines = "1 wlan0 up", "1 192.0.2.3/24 deprecated", "1 192.0.2.9/24", "1 default"
    keep = {"wlan0 192.0.2.3 > 198.51.100.1:51820"}
    found = candidates(machine(*lines), ONE, Settings(), keep=keep)
    assert [each.local_ip for each in found] == ["192.0.2.3", "192.0.2.9"]


NAMES = ["eth0", "wlan0", "lo", "docker0", "veth12", "br-5a", "virbr0", "jv0", "wwan0"]
EVERYWHERE = [f"{n} {name} up" for n, name in enumerate(NAMES)] + [
    line for n in range(len(NAMES)) for line in (f"{n} 192.0.2.{n + 10}/24", f"{n} default")
]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Settings(), {"eth0", "wlan0", "wwan0"}),
        (Settings(include=("veth*", "jv0")), {"veth12"}),
        (Settings(exclude=("w*",)), {"eth0"}),
        (Settings(include=("w*",), exclude=("wwan0",)), {"wlan0"}),
        (Settings(devices=(DeviceRule("eth?", "never"),)), {"wlan0", "wwan0"}),
        (Settings(include=("eth0",), devices=(DeviceRule("*", "never"),)), set()),
    ],
)
def test_devices_by_name(settings: Settings, names: set[str]) -> None:
    assert {key.split()[0] for key in keys(*EVERYWHERE, settings=settings)} == names


def test_priority_then_cost_then_metric() -> None:
    rules = DeviceRule("wwan*", "backup", METERED_COST), DeviceRule("wlan*", "primary", 5), DeviceRule("*")
    lines = (*WIFI, *MODEM, "3 eth0 up", "3 192.0.2.3/24", "3 default metric 9000")
    found = candidates(machine(*lines), ONE, Settings(devices=rules))
    assert [(each.device, each.tier, each.cost) for each in found] == [
        ("eth0", Tier.PRIMARY, 0),
        ("wlan0", Tier.PRIMARY, 5),
        ("wwan0", Tier.BACKUP, METERED_COST),
    ]
    assert [key.split()[0] for key in keys(*MODEM, *WIFI)] == ["wlan0", "wwan0"]
    table = (*WIFI[:3], "1 default via 192.0.2.1 table 7", *MODEM)
    assert [key.split()[0] for key in keys(*table)] == ["wwan0", "wlan0"]


MANY = [(f"198.51.100.{n}", 51820) for n in range(1, 20)]


def test_every_device_keeps_its_first_before_any_gets_a_second() -> None:
    found = candidates(machine(*WIFI, *MODEM), MANY, Settings(max_candidates=3))
    assert [(each.device, each.endpoint[0]) for each in found] == [
        ("wlan0", "198.51.100.1"),
        ("wwan0", "198.51.100.1"),
        ("wlan0", "198.51.100.2"),
    ]


def test_among_equals_a_path_that_exists_is_not_left_out() -> None:
    keep = {"wwan0 203.0.113.2 > 198.51.100.1:51820"}
    (kept,) = candidates(machine(*WIFI, *MODEM), ONE, Settings(max_candidates=1), keep=keep)
    assert kept.device == "wwan0"


def test_an_endpoint_named_twice_is_one() -> None:
    assert len(keys(*WIFI, endpoints=ONE * 3)) == 1


def test_names_are_not_looked_up_here() -> None:
    with pytest.raises(ValueError, match=r"vpn\.example"):
        keys(*WIFI, endpoints=[("vpn.example", 1)])


@given(st.randoms(use_true_random=False), st.integers(1, 16))
def test_the_order_of_rows_does_not_matter_and_the_bound_holds(shuffler: random.Random, most: int) -> None:
    lines = [*WIFI, *WIFI6, *MODEM, "3 eth0 up", "3 192.0.2.3/24", "3 192.0.2.4/24", "3 default metric 600"]
    wanted = candidates(machine(*lines), MANY, Settings(max_candidates=most))
    shuffler.shuffle(lines)
    assert candidates(machine(*lines), MANY, Settings(max_candidates=most)) == wanted
    assert 0 < len(wanted) <= most


# --- what a snapshot says against a path -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "evidence"),
    [
        (WIFI, None),
        ((), Evidence.LINK_DOWN),
        (("1 wlan0 down", *WIFI[1:]), Evidence.LINK_DOWN),
        (("1 wlan0 off", WIFI[1]), Evidence.LINK_DOWN),
        ((WIFI[0], *WIFI[2:]), Evidence.ADDRESS_REMOVED),
        ((WIFI[0], "2 192.0.2.2/24", *WIFI[2:]), Evidence.ADDRESS_REMOVED),
        (WIFI[:3], Evidence.ROUTE_GONE),
    ],
)
def test_evidence(lines: tuple[str, ...], evidence: Evidence | None) -> None:
    (path,) = candidates(machine(*WIFI), ONE, Settings())
    assert lost_because(machine(*lines), path) is evidence


# --- tables: what the kernel does not say ------------------------------------------------------------------------


def applied(tables: Tables, line: str, *, gone: bool = False, replaces: bool = False) -> bool:
    return tables.apply(Change(row(line), gone, replaces))


def filled(*lines: str) -> Tables:
    tables = Tables()
    for line in lines:
        applied(tables, line)
    tables.doubtful = False
    return tables


def test_routes_of_a_device_that_is_switched_off_go_with_it() -> None:
    tables = filled(*WIFI, *MODEM)
    assert applied(tables, "1 wlan0 off")
    assert {route.ifindex for route in tables.snapshot().routes} == {2}
    assert [address.ifindex for address in tables.snapshot().addresses] == [1, 2]
    assert not tables.doubtful
    assert applied(tables, "1 wlan0 up") and tables.doubtful


def test_a_carrier_that_goes_leaves_routes_where_they_are() -> None:
    tables = filled(*WIFI)
    assert applied(tables, "1 wlan0 down")
    assert len(tables.snapshot().routes) == 2


def test_a_device_that_goes_takes_everything_along() -> None:
    tables = filled(*WIFI)
    assert applied(tables, "1 wlan0 off", gone=True)
    assert tables.snapshot() == machine()
    assert not applied(tables, "1 wlan0 off", gone=True)


def test_an_ipv4_address_that_goes_may_have_taken_routes_along() -> None:
    tables = filled(*WIFI)
    assert applied(tables, "1 192.0.2.2/24", gone=True) and tables.doubtful
    tables = filled(*WIFI6)
    assert applied(tables, WIFI6[0], gone=True) and not tables.doubtful


def test_what_is_known_already_is_no_change() -> None:
    tables = filled(*WIFI)
    assert not any(applied(tables, line) for line in WIFI)
    assert not applied(tables, "1 198.51.100.0/24", gone=True)


def test_a_route_that_replaces_another_takes_its_place() -> None:
    tables = filled(*WIFI, *MODEM)
    assert applied(tables, "2 default via 203.0.113.1 metric 600", replaces=True)
    defaults = [r for r in tables.snapshot().routes if r.prefix.prefixlen == 0]
    assert [(route.ifindex, route.metric) for route in defaults] == [(2, 600), (2, 700)]


def test_tables_are_bounded() -> None:
    tables = filled(*WIFI)
    for n in range(ROUTES_MAX + 10):
        applied(tables, f"1 10.{n >> 8}.{n & 255}.0/24")
    assert len(tables.snapshot().routes) == ROUTES_MAX
