# SPDX-License-Identifier: Apache-2.0
"""The address pool against a model that looks at every place."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.configfields import Network
from gateway.control.pool import AddressPool, PoolExhausted

V4, V6 = ip_network("10.99.0.0/28"), ip_network("fd99::/64")
GATEWAY = (ip_address("10.99.0.1"), ip_address("fd99::1"))


def texts(networks: tuple[Network, ...]) -> list[str]:
    return [str(network) for network in networks]


def test_pairs_lowest_first_gateway_and_network_left_out() -> None:
    pool = AddressPool([V6, V4], GATEWAY)
    assert texts(pool.assign()) == ["10.99.0.2/32", "fd99::2/128"]
    assert texts(pool.assign()) == ["10.99.0.3/32", "fd99::3/128"]


def test_one_family() -> None:
    assert texts(AddressPool([V4]).assign()) == ["10.99.0.1/32"]
    assert texts(AddressPool([V6]).assign()) == ["fd99::1/128"]


def test_what_comes_back_is_handed_out_first() -> None:
    pool = AddressPool([V4, V6], GATEWAY)
    given_out = [pool.assign() for _ in range(5)]
    pool.release(given_out[3])
    pool.release(given_out[1])
    assert pool.assign() == given_out[1]
    assert pool.assign() == given_out[3]
    assert texts(pool.assign()) == ["10.99.0.7/32", "fd99::7/128"]


def test_exhausted_says_so_and_recovers() -> None:
    pool = AddressPool([V4, V6], GATEWAY)
    given_out = [pool.assign() for _ in range(13)]  # 16 places less network, broadcast and gateway
    with pytest.raises(PoolExhausted, match=r"10\.99\.0\.0/28 and fd99::/64 has no free address left"):
        pool.assign()
    assert PoolExhausted.exit_code == 5
    pool.release(given_out[7])
    assert pool.assign() == given_out[7]


def test_without_a_pool() -> None:
    with pytest.raises(PoolExhausted, match=r"there is no address pool"):
        AddressPool([]).assign()


def test_a_place_is_free_only_in_both_families() -> None:
    pool = AddressPool([V4, V6], GATEWAY)
    pool.take((ip_network("10.99.0.2/32"), ip_network("fd99::3/128")))
    assert texts(pool.assign()) == ["10.99.0.4/32", "fd99::4/128"]


def test_prefixes_wider_than_a_host_are_left_alone() -> None:
    pool = AddressPool([V4], GATEWAY[:1])
    wide = (ip_network("10.99.0.0/29"),)
    pool.take(wide)
    assert texts(pool.assign()) == ["10.99.0.8/32"]
    pool.release(wide)
    assert texts(pool.assign()) == ["10.99.0.2/32"]


def test_prefixes_outside_or_around_the_pool_do_not_matter() -> None:
    pool = AddressPool([V4])
    pool.take(
        tuple(map(ip_network, ("0.0.0.0/0", "10.0.0.0/8", "10.99.0.0/28", "192.0.2.1/32", "::/0", "::1/128")))
    )
    assert texts(pool.assign()) == ["10.99.0.1/32"]


def test_held_twice_is_free_when_both_let_go() -> None:
    pool = AddressPool([V4])
    host = (ip_network("10.99.0.1/32"),)
    pool.take(host)
    pool.take(host)
    pool.release(host)
    assert texts(pool.assign()) == ["10.99.0.2/32"]
    pool.release(host)
    assert texts(pool.assign()) == ["10.99.0.1/32"]


def test_releasing_what_nobody_holds_changes_nothing() -> None:
    pool = AddressPool([V4])
    pool.release((ip_network("10.99.0.5/32"), ip_network("10.99.0.8/30")))
    assert [texts(pool.assign())[0] for _ in range(6)] == [f"10.99.0.{place}/32" for place in range(1, 7)]


hosts = st.integers(0, 15).map(lambda place: ip_network(f"10.99.0.{place}/32"))
blocks = st.integers(0, 3).map(lambda place: ip_network(f"10.99.0.{place * 4}/30"))
acts = st.lists(
    st.one_of(st.just("assign"), st.tuples(st.sampled_from(["take", "release"]), st.one_of(hosts, blocks)))
)


@given(acts)
def test_always_the_lowest_free_place(acts_taken: list[object]) -> None:
    pool, held = AddressPool([V4], GATEWAY[:1]), [ip_network("10.99.0.1/32")]
    for act in acts_taken:
        if act == "assign":
            free = [h for h in list(V4.hosts()) if not any(h in network for network in held)]
            if not free:
                with pytest.raises(PoolExhausted):
                    pool.assign()
                continue
            (found,) = pool.assign()
            assert found == ip_network(free[0])
            held.append(found)
        elif isinstance(act, tuple) and act[0] == "take":
            pool.take((act[1],))
            held.append(act[1])
        elif isinstance(act, tuple) and act[1] in held and act[1] != ip_network("10.99.0.1/32"):
            pool.release((act[1],))
            held.remove(act[1])


def test_fifty_thousand_assignments_do_not_search() -> None:
    pool = AddressPool([ip_network("10.0.0.0/8"), V6])
    start = time.process_time()
    for _ in range(50_000):
        pool.assign()
    assert len(pool) == 50_000
    assert time.process_time() - start < 5
