# SPDX-License-Identifier: Apache-2.0
"""[policy.*] onto the core's Policy: every kind of value, and every mistake with its line."""

from __future__ import annotations

import pytest

from gateway.control.config import parse_gateway
from gateway.control.keysfile import encode_key
from gateway.core.policy import Policy, Profile
from gateway.errors import ConfigErrors

HEAD = f'[gateway]\nprivate_key = "{encode_key(bytes(range(32)))}"\n'


def policy_of(text: str) -> Policy:
    return parse_gateway(HEAD + text, "gateway.toml").policy


def test_without_a_policy_the_defaults_hold() -> None:
    assert policy_of("") == Policy()


def test_each_kind_of_value() -> None:
    policy = policy_of(
        """
[policy.session]
transport_lost_ttl = "45s"
[policy.liveness]
profile = "critical"
probe_budget = 5000
[policy.volatility]
loss_enter = 0.1
[policy.switching]
reclaim = true
[policy.dampening]
suppress = 2.5
[policy.transport]
allowed = ["udp"]
"""
    )
    assert policy.transport_lost_ttl_ns == 45_000_000_000
    assert policy.profile is Profile.CRITICAL
    assert policy.probe_budget == 5000
    assert policy.loss_enter_ppm == 100_000
    assert policy.reclaim is True
    assert policy.suppress_milli == 2500
    assert policy.allowed == ("udp",)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("[policy.session]\nlifetime = '1h'\n", "policy.session.lifetime", 4),
        ("[policy.session]\nmax_lifetime = 3600\n", "policy.session.max_lifetime", 4),
        ("[policy.session]\nmax_lifetime = '1s'\n", "policy.session.max_lifetime", 4),
        ("[policy.liveness]\nprofile = 'fast'\n", "policy.liveness.profile", 4),
        ("[policy.liveness]\nprobe_budget = true\n", "policy.liveness.probe_budget", 4),
        ("[policy.switching]\nreclaim = 1\n", "policy.switching.reclaim", 4),
        ("[policy.transport]\nallowed = ['tls']\n", "policy.transport.allowed", 4),
        ("[policy.transport]\nallowed = 'udp'\n", "policy.transport.allowed", 4),
        ("[policy.keys]\nrekey_after_time = '60s'\n", "policy.keys.rekey_after_time", 4),
        ("[policy.stock]\nroaming = 'never'\n", "policy.stock.roaming", 4),
    ],
)
def test_mistakes_name_their_key_and_line(text: str, key: str, line: int) -> None:
    with pytest.raises(ConfigErrors) as caught:
        policy_of(text)
    assert [(error.key, error.line) for error in caught.value.errors] == [(key, line)]


def test_what_has_no_effect_says_so_with_its_line() -> None:
    """Parameters that the data plane does not read yet; at their defaults nothing is missing."""
    text = HEAD + "[policy.security]\ncontrol_rate = 50\nbytes_factor = 2\ncontrol_burst = 100\n"
    warnings = parse_gateway(text, "gateway.toml").warnings
    assert [warning.split(":")[1:3] for warning in warnings] == [
        ["4", " policy.security.control_rate"],
        ["5", " policy.security.bytes_factor"],
    ]
    assert "100 frames a second" in warnings[0]


def test_contradicting_bounds_are_refused() -> None:
    with pytest.raises(ConfigErrors, match="could outlast the recovery window"):
        policy_of("[policy.session]\ntransport_lost_ttl = '16s'\n")
