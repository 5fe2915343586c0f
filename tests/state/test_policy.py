# SPDX-License-Identifier: Apache-2.0
"""The policy: defaults of session.md §4, each bound refused with its key, no value that switches a bound off."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gateway.core import Policy, Role, create, driver, policy_hash, problems
from gateway.core import inputs as inp
from gateway.core.liveness import idle_interval_ns
from gateway.core.policy import Profile, Roaming, agreed_profile, from_json, to_json
from gateway.errors import Refused
from tests.state.make import T0, S, attached, born, named


def test_the_defaults_are_valid_and_those_of_the_specification() -> None:
    p = Policy()
    assert problems(p) == ()
    assert (p.max_lifetime_ns, p.transport_lost_ttl_ns, p.birth_timeout_ns) == (8 * 3600 * S, 30 * S, 5 * S)
    assert (p.max_switches_per_min, p.reserved, p.cooldown_ns) == (8, 3, 1_500_000_000)
    assert p.reserve_gap_ns() == 15 * S


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"allowed": ("udp", "tls")}, "transport.allowed"),
        ({"allowed": ()}, "transport.allowed"),
        ({"reserved": 0}, "switching.reserved"),
        ({"max_lifetime_ns": 1 << 62}, "session.max_lifetime"),
        ({"max_lifetime_ns": 0}, "session.max_lifetime"),
        ({"transport_lost_ttl_ns": 20 * S}, "session.transport_lost_ttl"),
        ({"transport_lost_ttl_ns": 1 << 62}, "session.transport_lost_ttl"),
        ({"attempt_timeout_ns": 30 * S, "transport_lost_ttl_ns": 30 * S}, "switching.attempt_timeout"),
        ({"max_switches_per_min": 3}, "switching.max_switches_per_min"),
        ({"max_switches_per_min": 10_000}, "switching.max_switches_per_min"),
        ({"max_switches_per_min": 0, "transport_lost_ttl_ns": 24 * S}, "session.transport_lost_ttl"),
        ({"max_rebinds_per_min": 0}, "switching.max_rebinds_per_min"),
        ({"cooldown_ns": 0}, "switching.cooldown"),
        ({"loss_exit_ppm": 50_000}, "volatility.loss_exit"),
        ({"loss_enter_ppm": 0}, "volatility.loss_enter"),
        ({"reuse_milli": 3000}, "dampening.reuse"),
        ({"backoff_min_ns": 4 * S}, "switching.backoff_max"),
        ({"reject_after_ns": 60 * S}, "keys.reject_after_time"),
        ({"reject_after_ns": 181 * S}, "keys.reject_after_time"),
        ({"unvalidated_slots": 0}, "security.unvalidated_slots"),
        ({"bytes_factor": 4}, "security.bytes_factor"),
        ({"max_attempts": 0}, "switching.max_attempts"),
        ({"stability_window_ns": S, "profile": Profile.BATTERY}, "stability.window"),
    ],
)
def test_a_bound_that_is_off_or_contradicts_is_refused_with_its_key(change: dict[str, Any], key: str) -> None:
    found = problems(dataclasses.replace(Policy(), **change))
    assert key in [p.key for p in found]
    assert all(p.text for p in found)


def test_tls_is_refused_with_a_message_that_says_why() -> None:
    (problem,) = problems(Policy(allowed=("tls",)))
    assert "tls" in problem.text
    assert "does not exist yet" in problem.text


def test_an_invalid_policy_gets_no_new_session() -> None:
    with pytest.raises(Refused, match=r"switching\.reserved"):
        create(Role.CLIENT, bytes(16), "p", Policy(reserved=0), driver.First(1, "a"), T0)


def test_both_ends_use_the_larger_interval_and_never_fewer_than_three() -> None:
    assert agreed_profile(Profile.CRITICAL, Profile.METERED) is Profile.METERED
    assert agreed_profile(Profile.DEFAULT, Profile.CRITICAL) is Profile.DEFAULT
    assert all(profile.misses >= 3 for profile in Profile)


def test_idle_sessions_share_the_probe_budget() -> None:
    p = Policy()
    assert idle_interval_ns(p, 6_000) == 300_000_000
    assert idle_interval_ns(p, 100_000) == 5 * S
    assert idle_interval_ns(p, 10_000_000) == 25 * S


def test_the_hash_names_every_parameter() -> None:
    seen = {policy_hash(Policy())}
    for field in dataclasses.fields(Policy):
        value = getattr(Policy(), field.name)
        other: Any
        if isinstance(value, bool):
            other = not value
        elif isinstance(value, int):
            other = value + 1
        elif isinstance(value, Profile):
            other = Profile.BATTERY
        elif isinstance(value, Roaming):
            other = Roaming.NEVER
        else:
            other = ("udp", "udp")
        seen.add(policy_hash(dataclasses.replace(Policy(), **{field.name: other})))
    assert len(seen) == len(dataclasses.fields(Policy)) + 1


def test_json_round_trip() -> None:
    p = Policy(profile=Profile.CRITICAL, roaming=Roaming.WIREGUARD, cooldown_ns=2 * S)
    assert from_json(to_json(p)) == p


def test_live_change_of_the_lifetime_counts_from_birth() -> None:
    s = attached(Role.CLIENT)
    turn = driver.receive(s, inp.PolicyChanged(Policy(max_lifetime_ns=60 * S)), T0 + 61 * S)
    assert named(turn, "POLICY_EVENT")[0].applied
    assert driver.next_deadline(s) == T0 + 60 * S
    turn = driver.timer_due(s, T0 + 62 * S)
    assert named(turn, "STATE_CHANGE")[0].row == "T17"


def test_a_running_birth_timer_follows_the_policy_but_a_window_keeps_its_end() -> None:
    s = attached(Role.GATEWAY, paths=1)
    driver.receive(s, inp.PathMissed(1, 3, S), T0 + S)
    end = s.window_end_ns
    driver.receive(s, inp.PolicyChanged(Policy(transport_lost_ttl_ns=600 * S)), T0 + 2 * S)
    assert s.window_end_ns == end
    b = born(Role.GATEWAY)
    assert named(driver.timer_due(b, T0 + 5 * S), "STATE_CHANGE")[0].reason.name == "BIRTH_TIMEOUT"
