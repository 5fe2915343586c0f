# SPDX-License-Identifier: Apache-2.0
"""The policy as it travels in WELCOME, and back into the client's own policy.

Rule: what both ends must judge alike comes from the gateway; what only guards this end stays ours.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from gateway.constants import NS_PER_MS
from gateway.core.policy import POLICIES_KEPT, Policy, Profile, problems
from gateway.frames import CarrierBit, PolicySnapshot


@functools.lru_cache(maxsize=POLICIES_KEPT)
def snapshot_of(policy: Policy) -> PolicySnapshot:
    """The gateway's policy for one session."""
    return PolicySnapshot(
        max_lifetime_ms=policy.max_lifetime_ns // NS_PER_MS,
        transport_lost_ttl_ms=policy.transport_lost_ttl_ns // NS_PER_MS,
        liveness_interval_ms=policy.profile.interval_ns // NS_PER_MS,
        latency_enter_ms=policy.latency_enter_ns // NS_PER_MS,
        jitter_enter_ms=policy.jitter_enter_ns // NS_PER_MS,
        persist_ms=policy.persist_ns // NS_PER_MS,
        to_degraded_ms=policy.to_degraded_ns // NS_PER_MS,
        stability_window_ms=policy.stability_window_ns // NS_PER_MS,
        cooldown_ms=policy.cooldown_ns // NS_PER_MS,
        attempt_timeout_ms=policy.attempt_timeout_ns // NS_PER_MS,
        backoff_min_ms=policy.backoff_min_ns // NS_PER_MS,
        backoff_max_ms=policy.backoff_max_ns // NS_PER_MS,
        drain_ms=policy.drain_ns // NS_PER_MS,
        candidate_ttl_ms=policy.candidate_ttl_ns // NS_PER_MS,
        half_life_ms=policy.half_life_ns // NS_PER_MS,
        rekey_after_ms=policy.rekey_after_ns // NS_PER_MS,
        reject_after_ms=policy.reject_after_ns // NS_PER_MS,
        loss_enter_ppm=policy.loss_enter_ppm,
        loss_exit_ppm=policy.loss_exit_ppm,
        exit_ratio_ppm=policy.exit_ratio_ppm,
        suppress_milli=policy.suppress_milli,
        reuse_milli=policy.reuse_milli,
        rekey_after_packets=policy.rekey_after_packets,
        rekey_after_bytes=policy.rekey_after_bytes,
        capabilities=0,
        max_switches_per_min=policy.max_switches_per_min,
        reserved=policy.reserved,
        max_rebinds_per_min=policy.max_rebinds_per_min,
        max_attempts=policy.max_attempts,
        control_rate_per_s=policy.control_rate,
        control_burst=policy.control_burst,
        liveness_misses=policy.profile.misses,
        latency_factor=policy.latency_factor,
        improvement_points=policy.improvement_points,
        max_candidates=policy.max_candidates,
        carriers=CarrierBit.UDP,
        reclaim=policy.reclaim,
    )


def agreed_policy(own: Policy, seen: PolicySnapshot) -> Policy:
    """The client's policy once the gateway has spoken: its bounds, its switching limits, the slower profile."""
    return replace(
        own,
        max_lifetime_ns=seen.max_lifetime_ms * NS_PER_MS,
        transport_lost_ttl_ns=seen.transport_lost_ttl_ms * NS_PER_MS,
        profile=_profile(own, seen),
        attempt_timeout_ns=seen.attempt_timeout_ms * NS_PER_MS,
        cooldown_ns=max(own.cooldown_ns, seen.cooldown_ms * NS_PER_MS),
        max_switches_per_min=seen.max_switches_per_min,
        reserved=seen.reserved,
        max_rebinds_per_min=seen.max_rebinds_per_min,
        drain_ns=seen.drain_ms * NS_PER_MS,
    )


def _profile(own: Policy, seen: PolicySnapshot) -> Profile:
    """The profile with the larger interval (protocol.md §2)."""
    return profile_of(max(own.profile.interval_ns, seen.liveness_interval_ms * NS_PER_MS))


@functools.lru_cache(maxsize=POLICIES_KEPT)
def with_interval(own: Policy, asked_ns: int) -> Policy:
    """The gateway's policy for a client that asks for this probe interval: the slower one, where it may have it."""
    profile = profile_of(max(own.profile.interval_ns, asked_ns))
    slower = own if profile is own.profile else replace(own, profile=profile)
    return own if problems(slower) else slower


def profile_of(interval_ns: int) -> Profile:
    """The profile nearest to an interval that the other end names."""
    return min(Profile, key=lambda profile: abs(profile.interval_ns - interval_ns))
