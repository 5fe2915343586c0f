# SPDX-License-Identifier: Apache-2.0
"""The policy through WELCOME: what the gateway decides arrives, what the client guards stays."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from gateway import frames as fr
from gateway.control.snapshot import agreed_policy, snapshot_of
from gateway.core.policy import Policy, Profile, problems


def test_the_same_policy_at_both_ends_stays_what_it_is() -> None:
    assert agreed_policy(Policy(), snapshot_of(Policy())) == Policy()


def test_the_gateways_bounds_reach_the_client() -> None:
    theirs = replace(Policy(), transport_lost_ttl_ns=90_000_000_000, max_switches_per_min=4, reserved=2)
    agreed = agreed_policy(Policy(), snapshot_of(theirs))
    assert agreed.transport_lost_ttl_ns == 90_000_000_000
    assert (agreed.max_switches_per_min, agreed.reserved) == (4, 2)
    assert problems(agreed) == ()


def test_the_slower_profile_holds_whoever_asks_for_it() -> None:
    fast, slow = replace(Policy(), profile=Profile.CRITICAL), replace(Policy(), profile=Profile.METERED)
    assert agreed_policy(fast, snapshot_of(slow)).profile is Profile.METERED
    assert agreed_policy(slow, snapshot_of(fast)).profile is Profile.METERED


def test_the_switch_budget_is_the_gateways_and_the_longer_cooldown_holds() -> None:
    """Budget and window belong together (60 s / (reserved + 1) must fit the window), so they come from one hand."""
    own = replace(Policy(), cooldown_ns=9_000_000_000)
    theirs = replace(
        Policy(),
        cooldown_ns=1_000_000_000,
        transport_lost_ttl_ns=8_000_000_000,
        max_switches_per_min=20,
        reserved=19,
    )
    agreed = agreed_policy(own, snapshot_of(theirs))
    assert agreed.cooldown_ns == 9_000_000_000
    assert (agreed.max_switches_per_min, agreed.reserved) == (20, 19)
    assert problems(theirs) == problems(agreed)


def test_it_survives_the_wire() -> None:
    seen = snapshot_of(replace(Policy(), profile=Profile.BATTERY))
    welcome = fr.Welcome(
        session_id=bytes(range(16)),
        binding_epoch=1,
        bound_path_id=1,
        state_version=1,
        last_attempt_id=0,
        suite=1,
        policy=seen,
        inner_addresses=(),
        endpoints=(),
        observed=fr.Endpoint(ip=ip_address("192.0.2.1"), port=1),
    )
    (read,) = fr.parse(fr.encode((welcome,)), fr.Direction.TO_CLIENT)
    assert isinstance(read, fr.Welcome)
    assert read.policy == seen
