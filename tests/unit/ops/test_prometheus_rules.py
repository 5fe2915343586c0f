# SPDX-License-Identifier: Apache-2.0
"""The rules that ship: each alert fires where it should and nowhere else, reads metrics that exist, and is explained.

A healthy gateway's series are the background of every case, and with them no alert fires. A case changes some of them;
then exactly one alert fires. A near miss changes them as well, a little less, and none does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from gateway.control.watch import STALL_BUCKETS_S
from gateway.dataplane import engine as dp
from gateway.noise.admission import Verdict
from gateway.noise.timers import DEFAULT
from gateway.ops.stats.box import udp_errors
from gateway.ops.stats.tally import RECOVERY_BUCKETS_S
from tests.unit.ops.promtool import ROOT, RULES, evaluate, metric_names, needs_promtool, run
from tests.unit.ops.statshost import get, on_loop, serving

TEXT: Final = RULES.read_text()
PAGE: Final = (ROOT / "docs/operations.md").read_text()
TARGET: Final = 'job="jvpn",instance="g1"'
MINUTES: Final = 90
EVALUATED: Final = 80
ALERT: Final = re.compile(r"^      - alert: (\w+)\n((?:        .*\n)+)", re.MULTILINE)
RECORD: Final = re.compile(r"^      - record: (\S+)\n((?:        .*\n)+)", re.MULTILINE)
ALERTS: Final = dict(ALERT.findall(TEXT))
RECORDS: Final = dict(RECORD.findall(TEXT))
SELECTED: Final = re.compile(r"(\w+)\{([^}]*)\}")
MATCHER: Final = re.compile(r'(\w+)(=~|=)"([^"]*)"')

Series = dict[str, str]


def named(name: str, **labels: object) -> str:
    """A series of the one target."""
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{TARGET}{more}}}"


def flat(value: float) -> str:
    """The same all the time."""
    return f"{value}x{MINUTES}"


def grows(per_minute: float) -> str:
    """A counter."""
    return f"0+{per_minute}x{MINUTES}"


def turns(before: float, after: float, minutes: int) -> str:
    """So many minutes before the evaluation it became another value."""
    return f"{before}x{EVALUATED - minutes - 1} {after}x{MINUTES}"


def histogram(name: str, bounds: tuple[float, ...], least: float, per_minute: float) -> Series:
    """All observations lie in the bucket that begins at ``least``."""
    found = {named(f"{name}_bucket", le=bound): grows(per_minute if bound > least else 0) for bound in bounds}
    return {
        **found,
        named(f"{name}_bucket", le="+Inf"): grows(per_minute),
        named(f"{name}_count"): grows(per_minute),
    }


def sessions(**by_state: int) -> Series:
    """Their number by state."""
    states = ("BIRTH", "ATTACHED", "VOLATILE", "DEGRADED", "RECOVERING")
    return {named("jvpn_sessions", state=state): flat(by_state.get(state, 0)) for state in states}


def recoveries(least_s: float, per_minute: float) -> Series:
    return histogram("jvpn_recovery_seconds", RECOVERY_BUCKETS_S, least_s, per_minute)


def stalls(least_s: float) -> Series:
    return histogram("jvpn_loop_stall_seconds", STALL_BUCKETS_S, least_s, 240)


def drops(reason: str, per_s: float) -> Series:
    return {named("jvpn_drops_total", reason=reason): grows(60 * per_s)}


def switches(result: str, per_minute: float) -> Series:
    return {named("jvpn_switches_total", kind="discretionary", result=result, reason="X"): grows(per_minute)}


def security(per_minute: float) -> Series:
    return {named("jvpn_security_events_total", **{"class": "RATE_LIMITED"}): grows(per_minute)}


def handshakes(ok_per_s: float, failed_per_s: float) -> Series:
    return {
        named("jvpn_handshakes_total", result="ok", reason=""): grows(60 * ok_per_s),
        named("jvpn_handshakes_total", result="failed", reason="auth_failed"): grows(60 * failed_per_s),
    }


def datagrams(in_per_s: float, out_per_s: float) -> Series:
    return {
        named("jvpn_datagrams_total", direction="in"): grows(60 * in_per_s),
        named("jvpn_datagrams_total", direction="out"): grows(60 * out_per_s),
    }


def one(name: str, values: str, **labels: object) -> Series:
    return {named(name, **labels): values}


# The clock of promtool begins at 0, and so did this gateway.
HEALTHY: Final[Series] = {
    **one("up", flat(1)),
    **one("process_start_time_seconds", flat(0)),
    **one("process_open_fds", flat(40)),
    **one("process_max_fds", flat(1024)),
    **one("jvpn_host_memory_bytes", flat(4e9)),
    **one("jvpn_host_memory_available_bytes", flat(2e9)),
    **one("jvpn_stalled", flat(0)),
    **one("jvpn_draining", flat(0)),
    **one("jvpn_dual_binding_total", flat(0)),
    **one("jvpn_silent_reset_total", flat(0)),
    **one("jvpn_ambiguous_owner_total", flat(0)),
    **one("jvpn_audit_failing", flat(0)),
    **one("jvpn_audit_gap_total", flat(0)),
    **one("jvpn_store_failing", flat(0)),
    **one("jvpn_probe_interval_seconds", flat(0.25)),
    **one("jvpn_host_udp_errors_total", grows(0), kind="receive_buffer_errors"),
    **one("jvpn_dataplane_total", grows(0), counter="tx_gso_fallback"),
    **one("jvpn_admission_total", grows(60), verdict="accept"),
    **one("jvpn_admission_total", grows(0), verdict="cookie_required"),
    **one("jvpn_admission_total", grows(0), verdict="rate_limited"),
    **one("jvpn_bytes_total", grows(1e9), direction="in", layer="inner"),
    **sessions(ATTACHED=4990, VOLATILE=5, RECOVERING=5),
    **switches("done", 2),
    **switches("denied", 1),
    **security(0.1),
    **handshakes(40, 0.1),
    **datagrams(1000, 1000),
    **drops("auth", 0.1),
    **drops("tun_write", 0),
    **drops("source", 0.1),
    **drops("replay_seen", 500),  # duplicates on a standby are replays, and meant
    **recoveries(0.05, 2),
    **stalls(0.0),
}


class Case(NamedTuple):
    """What is different, and what is a little less different."""

    fires: Series
    near: Series


CASES: Final[Mapping[str, Case]] = {
    "JvpnDown": Case(one("up", turns(1, 0, 3)), one("up", turns(1, 0, 1))),
    "JvpnRestarting": Case(
        one("process_start_time_seconds", "0x60 3700x5 4000x5 4300x20"),
        one("process_start_time_seconds", "0x60 3700x5 4000x30"),
    ),
    "JvpnStalled": Case(one("jvpn_stalled", turns(0, 1, 1)), one("jvpn_stalled", turns(0, 1, 0))),
    "JvpnDraining": Case(one("jvpn_draining", turns(0, 1, 61)), one("jvpn_draining", turns(0, 1, 58))),
    "JvpnLoopStalls": Case(stalls(0.25), stalls(0.1)),
    "JvpnDescriptors": Case(one("process_open_fds", flat(900)), one("process_open_fds", flat(800))),
    "JvpnMemory": Case(
        one("jvpn_host_memory_available_bytes", flat(1e8)), one("jvpn_host_memory_available_bytes", flat(3e8))
    ),
    "JvpnDualBinding": Case(
        one("jvpn_dual_binding_total", turns(0, 1, 0)), one("jvpn_dual_binding_total", flat(0))
    ),
    "JvpnSilentReset": Case(
        one("jvpn_silent_reset_total", turns(0, 1, 0)), one("jvpn_silent_reset_total", flat(0))
    ),
    "JvpnAmbiguousOwner": Case(
        one("jvpn_ambiguous_owner_total", turns(0, 1, 0)), one("jvpn_ambiguous_owner_total", flat(0))
    ),
    "JvpnSessionsUnsettled": Case(
        sessions(ATTACHED=7, VOLATILE=2, RECOVERING=1), sessions(ATTACHED=8, VOLATILE=1, RECOVERING=1)
    ),
    "JvpnSessionsDegraded": Case(sessions(ATTACHED=7, DEGRADED=3), sessions(ATTACHED=1, DEGRADED=3)),
    "JvpnRecoverySlow": Case(recoveries(1.0, 1), recoveries(1.0, 0.5)),
    "JvpnSwitchesDenied": Case(switches("denied", 3), {**switches("denied", 3), **switches("done", 4)}),
    "JvpnSecurityEvents": Case(security(4), security(3)),
    "JvpnNoTraffic": Case(datagrams(0, 1), {**datagrams(0, 1), **sessions(DEGRADED=1)}),
    "JvpnDropsHere": Case(drops("tun_write", 6), drops("tun_write", 4)),
    "JvpnDropsRefused": Case(drops("auth", 60), drops("auth", 40)),
    "JvpnDropsRouting": Case(drops("source", 6), drops("source", 4)),
    "JvpnUdpReceiveErrors": Case(
        one("jvpn_host_udp_errors_total", grows(120), kind="receive_buffer_errors"),
        {
            **one("jvpn_host_udp_errors_total", grows(50), kind="receive_buffer_errors"),
            **one("jvpn_host_udp_errors_total", grows(500), kind="in_errors"),
        },
    ),
    "JvpnSendsPiecewise": Case(
        one("jvpn_dataplane_total", grows(120), counter="tx_gso_fallback"),
        one("jvpn_dataplane_total", grows(1e6), counter="tx_probes"),
    ),
    "JvpnProbesStretched": Case(
        one("jvpn_probe_interval_seconds", flat(6)), one("jvpn_probe_interval_seconds", turns(0.25, 6, 10))
    ),
    "JvpnHandshakesFailing": Case(handshakes(0.2, 0.4), handshakes(0.5, 0.4)),
    "JvpnUnderLoad": Case(
        {
            **one("jvpn_admission_total", grows(240), verdict="cookie_required"),
            **one("jvpn_admission_total", grows(120), verdict="rate_limited"),
        },
        one("jvpn_admission_total", grows(240), verdict="rate_limited"),
    ),
    "JvpnAuditFailing": Case(
        one("jvpn_audit_failing", turns(0, 1, 1)), one("jvpn_audit_failing", turns(0, 1, 0))
    ),
    "JvpnAuditGap": Case(
        one("jvpn_audit_gap_total", turns(0, 1, 30)), one("jvpn_audit_gap_total", turns(0, 1, 70))
    ),
    "JvpnStoreFailing": Case(
        one("jvpn_store_failing", turns(0, 1, 1)), one("jvpn_store_failing", turns(0, 1, 0))
    ),
}


def firing(folder: Path, series: Series, *expected: str) -> None:
    """Exactly these alerts fire, once each."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected]
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    test = {"expr": expression, "eval_time": f"{EVALUATED}m", "exp_samples": samples}
    done = evaluate(folder, series, [test])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_file() -> None:
    done = run("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS) + len(RECORDS)} rules found" in done.stdout


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@needs_promtool
def test_a_healthy_gateway_alerts_nobody(tmp_path: Path) -> None:
    firing(tmp_path, HEALTHY)


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_it_fires(name: str, tmp_path: Path) -> None:
    firing(tmp_path, {**HEALTHY, **CASES[name].fires}, name)


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_a_near_miss_does_not(name: str, tmp_path: Path) -> None:
    firing(tmp_path, {**HEALTHY, **CASES[name].near})


@needs_promtool
def test_a_gap_that_was_there_at_the_start_is_told_for_an_hour(tmp_path: Path) -> None:
    gap = one("jvpn_audit_gap_total", f"_x49 1x{MINUTES}")
    young = {**gap, **one("process_start_time_seconds", "0x49 2990x90")}
    firing(tmp_path, {**HEALTHY, **young}, "JvpnAuditGap")
    firing(tmp_path, {**HEALTHY, **one("jvpn_audit_gap_total", flat(1))})


@needs_promtool
def test_an_idle_gateway_without_sessions_alerts_nobody(tmp_path: Path) -> None:
    firing(tmp_path, {**HEALTHY, **sessions(), **datagrams(0, 0), **recoveries(0.0, 0)})


@needs_promtool
def test_each_gateway_is_judged_by_itself(tmp_path: Path) -> None:
    other = {name.replace("g1", "g2"): values for name, values in {**HEALTHY, **datagrams(0, 1)}.items()}
    expression = 'ALERTS{alertstate="firing"}'
    labels = (
        'ALERTS{alertname="JvpnNoTraffic",alertstate="firing",instance="g2",job="jvpn",severity="critical"}'
    )
    test = {
        "expr": expression,
        "eval_time": f"{EVALUATED}m",
        "exp_samples": [{"labels": labels, "value": 1}],
    }
    done = evaluate(tmp_path, {**HEALTHY, **other}, [test])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_what_an_alert_says(tmp_path: Path) -> None:
    said = {
        "exp_labels": {"job": "jvpn", "instance": "g1", "reason": "tun_write", "severity": "warning"},
        "exp_annotations": {
            "summary": "g1: packets are dropped here (tun_write)",
            "description": "6 packets a second are lost to this machine's own limits.",
            "runbook": "docs/operations.md#jvpndropshere",
        },
    }
    alert = {"alertname": "JvpnDropsHere", "eval_time": f"{EVALUATED}m", "exp_alerts": [said]}
    done = evaluate(tmp_path, {**HEALTHY, **drops("tun_write", 6)}, [], [alert])
    assert done.returncode == 0, done.stdout + done.stderr


# --- against the program and the documents ----------------------------------------------------------------------------


def expression(body: str) -> str:
    """The expression of one rule."""
    found = re.search(r"^        expr: (?:>-\n((?:          .*\n)+)|(.*)\n)", body, re.MULTILINE)
    assert found is not None, body
    return found[1] or found[2]


def test_they_read_what_a_gateway_gives(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            text = (await get(made, "/metrics"))[1]
        families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
        histograms = set(re.findall(r"^# TYPE (\S+) histogram$", text, re.MULTILINE))
        known = families | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
        for name, body in {**ALERTS, **RECORDS}.items():
            read = metric_names(expression(body))
            assert read, name
            assert read <= known | set(RECORDS) | {"up"}, name

    on_loop(work)


def test_their_labels_have_these_values() -> None:
    """A misspelt drop, verdict or counter would never match, and never fire."""
    counters = dp.Engine(
        sessions=1, prefixes=1, window_bits=1024, index_seed=bytes(32), limits=DEFAULT, now_ns=0
    ).counters()
    values = {
        "reason": {name.removeprefix("drop_") for name in counters if name.startswith("drop_")},
        "counter": set(counters),
        "verdict": {verdict.name.lower() for verdict in Verdict},
        "kind": set(udp_errors()),
        "state": {"BIRTH", "ATTACHED", "VOLATILE", "DEGRADED", "RECOVERING"},
        "result": {"ok", "failed", "done", "denied"},
        "direction": {"in", "out"},
        "job": {"jvpn"},
    }
    for name, body in {**ALERTS, **RECORDS}.items():
        for _, inside in SELECTED.findall(expression(body)):
            for label, operator, pattern in MATCHER.findall(inside):
                for word in pattern.split("|") if operator == "=~" else [re.escape(pattern)]:
                    assert any(re.fullmatch(word, value) for value in values[label]), (name, word)


def test_every_alert_is_explained() -> None:
    headings = set(re.findall(r"^### (Jvpn\w+)$", PAGE, re.MULTILINE))
    assert headings == set(ALERTS)
    for name, body in ALERTS.items():
        assert f"runbook: docs/operations.md#{name.lower()}\n" in body
        for annotation in ("summary", "description"):
            assert re.search(rf'^          {annotation}: ".+"$', body, re.MULTILINE), name
        assert re.search(r"^          severity: (?:critical|warning|info)$", body, re.MULTILINE), name
