# SPDX-License-Identifier: Apache-2.0
"""Changes that take themselves back: when nobody confirms, when the gateway does not serve, when the power fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from appliance.guest import change, files, gatewayfile, settings
from appliance.guest.host import Done
from appliance.guest.settings import Settings
from gateway.errors import JumpError, NotFound, Refused
from tests.unit.appliance.box import Box, cut_after


def fine() -> str:
    return ""


def commit(box: Box, text: str, keep_within_s: int = 60, problem: str = "") -> tuple[str, ...]:
    return change.commit(
        box.layout,
        box.programs,
        change.GATEWAY,
        text,
        keep_within_s=keep_within_s,
        healthy=lambda: problem,
    )


def other(box: Box) -> tuple[str, str]:
    """What is in force, and something else."""
    now = box.layout.gateway_file.read_text()
    return now, gatewayfile.with_key(now, "gateway", 'listen = ["0.0.0.0:4500"]')


def test_a_kept_change_stays_over_a_boot(booted: Box) -> None:
    _, text = other(booted)
    commit(booted, text)
    assert booted.layout.gateway_file.read_text() == text
    first, second = booted.programs.ran("systemd-run")
    assert first[-3:] == second[-3:] == ["/usr/sbin/jvpn-appliance", "config", "revert"]
    # The time to answer begins when the change is in force; until then there is time to apply it.
    assert "--on-active=240" in first and "--on-active=60" in second
    assert booted.programs.calls[-1] == second
    assert change.confirm(booted.layout, booted.programs) == "gateway.toml"
    assert booted.programs.ran("systemctl", "stop", "jvpn-revert.timer")
    booted.boot()
    assert booted.layout.gateway_file.read_text() == text
    assert "4500" in booted.layout.nftables.read_text()


def test_a_change_that_nobody_kept_is_taken_back_by_the_next_boot(booted: Box) -> None:
    before, text = other(booted)
    commit(booted, text)
    report = booted.boot()
    assert booted.layout.gateway_file.read_text() == before
    assert report.notes == ["took back a change of gateway.toml that nobody had confirmed"]
    assert "51820" in booted.layout.nftables.read_text()


def test_the_timer_takes_it_back_and_makes_the_system_use_it(booted: Box) -> None:
    before, text = other(booted)
    commit(booted, text)
    booted.programs.calls.clear()
    assert change.take_back(booted.layout, booted.programs)[0] == "took back the change of gateway.toml"
    assert booted.layout.gateway_file.read_text() == before
    assert booted.programs.ran("jvpn", "config", "reload") and booted.programs.ran("nft", "-f")
    assert change.take_back(booted.layout, booted.programs) == ("no change waited",)


def test_a_gateway_that_does_not_serve_has_its_old_file_at_once(booted: Box) -> None:
    before, text = other(booted)
    with pytest.raises(JumpError, match="taken back, the gateway does not serve with it: not running"):
        commit(booted, text, problem="not running")
    assert booted.layout.gateway_file.read_text() == before
    assert change.pending(booted.layout) is None


def test_there_is_one_change_at_a_time(booted: Box) -> None:
    _, text = other(booted)
    commit(booted, text)
    with pytest.raises(Refused, match="another change waits"):
        commit(booted, text + "# again\n")
    assert booted.layout.gateway_file.read_text() == text


def test_with_zero_seconds_nobody_is_asked(booted: Box) -> None:
    _, text = other(booted)
    commit(booted, text, keep_within_s=0)
    assert change.pending(booted.layout) is None
    assert not booted.programs.ran("systemd-run")
    with pytest.raises(NotFound, match="no change waits"):
        change.keep(booted.layout)


@pytest.mark.parametrize(
    ("said", "command"),
    [("reload   policy", ["jvpn", "config", "reload"]), ("restart  gateway.mtu", ["systemctl", "restart"])],
)
def test_a_reload_where_it_is_enough_and_a_restart_where_not(
    booted: Box, said: str, command: list[str]
) -> None:
    def answer(asked: Sequence[str], _text: str) -> Done | None:
        return Done(0, f"{said}: 1 -> 2\n") if list(asked) == ["jvpn", "config", "diff"] else None

    booted.programs.answer = answer
    commit(booted, other(booted)[1], keep_within_s=0)
    assert booted.programs.ran(*command)


def test_settings_that_were_not_there_before_are_gone_again(booted: Box) -> None:
    assert not booted.layout.settings.exists()
    wanted = settings.encode(Settings(hostname="other"))
    change.commit(booted.layout, booted.programs, change.SETTINGS, wanted, keep_within_s=60, healthy=fine)
    assert booted.layout.hostname.read_text() == "other\n"
    assert [call[2] for call in booted.programs.ran("networkctl", "reconfigure")] == ["ens3", "ens4"]
    change.take_back(booted.layout, booted.programs)
    assert not booted.layout.settings.exists()
    assert booted.layout.hostname.read_text() == "jumping-vpn\n"


@pytest.mark.parametrize("written", range(4))
def test_cut_off_between_any_two_writes_the_old_file_comes_back(booted: Box, written: int) -> None:
    """previous, pending.json, the file itself: only with the last one the change is begun."""
    before, text = other(booted)
    with (
        cut_after(written, files, "write"),
        nullcontext() if written == 3 else pytest.raises(KeyboardInterrupt),
    ):
        change.begin(booted.layout, change.GATEWAY, text)
    booted.boot()
    assert booted.layout.gateway_file.read_text() == before
    assert change.pending(booted.layout) is None
