# SPDX-License-Identifier: Apache-2.0
"""Frames to test with: one example of each (those of docs/protocol.md), and a Hypothesis strategy for each, made from
its columns, so that a new field is drawn without a line here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import strategies as st

from gateway import frames as fr
from gateway.framefields import Flag, Ip, Kind, ListOf, Nested, Raw, Record, UInt, columns

INSTANCE = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf")
SESSION = bytes.fromhex("505152535455565758595a5b5c5d5e5f")
RANDOM = bytes.fromhex("c0c1c2c3c4c5c6c7")

POLICY = fr.PolicySnapshot(
    max_lifetime_ms=28_800_000,
    transport_lost_ttl_ms=30_000,
    liveness_interval_ms=300,
    latency_enter_ms=300,
    jitter_enter_ms=80,
    persist_ms=500,
    to_degraded_ms=4000,
    stability_window_ms=3000,
    cooldown_ms=1500,
    attempt_timeout_ms=5000,
    backoff_min_ms=200,
    backoff_max_ms=3000,
    drain_ms=300,
    candidate_ttl_ms=15_000,
    half_life_ms=30_000,
    rekey_after_ms=120_000,
    reject_after_ms=180_000,
    loss_enter_ppm=50_000,
    loss_exit_ppm=20_000,
    exit_ratio_ppm=800_000,
    suppress_milli=3000,
    reuse_milli=1000,
    rekey_after_packets=1 << 60,
    rekey_after_bytes=0,
    capabilities=fr.Capability.PARTIAL_CHECKSUM,
    max_switches_per_min=8,
    reserved=3,
    max_rebinds_per_min=20,
    max_attempts=10,
    control_rate_per_s=100,
    control_burst=100,
    liveness_misses=3,
    latency_factor=3,
    improvement_points=10,
    max_candidates=8,
    carriers=fr.CarrierBit.UDP,
    reclaim=False,
)
V4 = fr.Endpoint(ip=IPv4Address("192.0.2.1"), port=51820)
V6 = fr.Endpoint(ip=IPv6Address("2001:db8::1"), port=51820)
WELCOME = fr.Welcome(
    session_id=SESSION,
    binding_epoch=1,
    bound_path_id=1,
    state_version=1,
    last_attempt_id=0,
    suite=3,
    policy=POLICY,
    inner_addresses=(
        fr.InnerAddress(ip=IPv4Address("10.7.0.2"), prefix_bits=24),
        fr.InnerAddress(ip=IPv6Address("fd07::2"), prefix_bits=64),
    ),
    endpoints=(V4, V6),
    observed=fr.Endpoint(ip=IPv4Address("198.51.100.7"), port=40_000),
)
EXAMPLES: tuple[fr.Frame, ...] = (
    fr.Hello(
        capabilities=fr.Capability.PARTIAL_CHECKSUM,
        instance_id=INSTANCE,
        session_id=fr.NO_SESSION,
        binding_epoch=0,
        path_id=1,
        suites=(3, 2, 1),
        liveness_interval_ms=300,
        liveness_misses=3,
    ),
    WELCOME,
    fr.Refuse(instance_id=INSTANCE, reason=fr.RefuseReason.RATE_LIMITED, retry_after_ms=20_000),
    fr.Probe(
        path_id=1,
        seq=7,
        tx_time_ns=81_234_000_000,
        tx_packets=1000,
        tx_bytes=1_420_000,
        binding_epoch=2,
        bound_path_id=1,
        pmtu=False,
    ),
    fr.ProbeAck(
        path_id=1,
        seq=7,
        echo_time_ns=81_234_000_000,
        hold_time_ns=1500,
        rx_packets=998,
        rx_bytes=1_417_160,
        binding_epoch=2,
        bound_path_id=1,
    ),
    fr.Challenge(path_id=1, rebind=True, nonce=RANDOM),
    fr.Response(path_id=1, nonce=RANDOM),
    fr.ReattachRequest(attempt_id=5, binding_epoch=2, path_id=2, reason=14, forced=True),
    fr.ReattachAck(attempt_id=5, binding_epoch=3, path_id=2),
    fr.ReattachReject(attempt_id=5, reason=89, binding_epoch=3, retry_after_ms=0),
    fr.SwitchAdvice(reason=fr.AdviceReason.NOT_BOUND, preferred_path_id=0),
    fr.PathClose(path_id=2, reason=14),
    fr.Ping(token=RANDOM),
    fr.Pong(token=RANDOM),
    fr.Terminate(reason=53),
)


def direction_of(frame: fr.Frame) -> fr.Direction:
    """A direction the frame may travel in."""
    return fr.Direction.TO_CLIENT if frame.DIRECTION & fr.Direction.TO_CLIENT else fr.Direction.TO_GATEWAY


def _addresses() -> st.SearchStrategy[IPv4Address | IPv6Address]:
    every = st.ip_addresses(v=4) | st.ip_addresses(v=6)
    return every.filter(
        lambda ip: not (ip.is_unspecified or ip.is_multicast) and getattr(ip, "ipv4_mapped", None) is None
    )


def _values(kind: Kind) -> st.SearchStrategy[Any]:
    match kind:
        case UInt():
            return st.integers(kind.low, kind.high)
        case Flag():
            return st.booleans()
        case Raw():
            return st.binary(min_size=kind.min_bytes, max_size=kind.max_bytes)
        case Ip():
            return _addresses()
        case Nested():
            return records(kind.of)
        case ListOf():
            unique = (lambda entry: entry) if kind.distinct else None
            return st.lists(_values(kind.item), min_size=kind.low, max_size=kind.high, unique_by=unique).map(
                tuple
            )
    raise TypeError(f"no strategy for {kind}")


def _inner() -> st.SearchStrategy[fr.InnerAddress]:
    def with_prefix(ip: IPv4Address | IPv6Address) -> st.SearchStrategy[fr.InnerAddress]:
        return st.integers(1, ip.max_prefixlen).map(lambda bits: fr.InnerAddress(ip=ip, prefix_bits=bits))

    return _addresses().flatmap(with_prefix)


def records(of: type[Record]) -> st.SearchStrategy[Any]:
    """Every record of a class."""
    if of is fr.InnerAddress:
        return _inner()
    return st.builds(of, **{name: _values(kind) for name, kind in columns(of)})


def all_frames() -> st.SearchStrategy[fr.Frame]:
    """Every frame of this version."""
    return st.one_of([records(of) for of in fr.FRAMES])


def messages() -> st.SearchStrategy[tuple[bytes, fr.Direction, tuple[fr.Frame, ...]]]:
    """(plaintext, direction, frames): one to four frames that travel the same way, padded or not."""

    def build(frames: list[fr.Frame], direction: fr.Direction, pad: int) -> tuple[bytes, fr.Direction, Any]:
        same = tuple(frame for frame in frames if frame.DIRECTION & direction)[:4]
        return (fr.encode(same, pad), direction, same) if same else (b"", direction, ())

    ways = st.sampled_from([fr.Direction.TO_GATEWAY, fr.Direction.TO_CLIENT])
    small = all_frames().filter(lambda frame: not isinstance(frame, fr.Welcome))
    drawn = st.lists(small, min_size=1, max_size=8) | st.lists(all_frames(), min_size=1, max_size=1)
    return st.builds(build, drawn, ways, st.integers(0, fr.MESSAGE_BYTES_MAX)).filter(lambda m: bool(m[2]))
