# SPDX-License-Identifier: Apache-2.0
"""After a start: trials that pass, trials that do not, and starts that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.update.confirm import DEADLINE_S, Confirm, Standing, Trial, standing
from appliance.update.slots import BootState
from gateway.errors import HostError
from tests.unit.appliance.updating import NEW, OLD, Box, make_box, make_bundle


class FakeTime:
    """A clock that only goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep_s(self, duration_s: float) -> None:
        self.now_s += duration_s


def passing() -> str:
    return "a packet went through"


def failing() -> str:
    raise HostError("the gateway answers no handshake")


def after_start(
    box: Box, passes: Callable[[], str], comes_up: Callable[[], str] = failing, time: FakeTime | None = None
) -> tuple[Standing, list[str]]:
    said: list[str] = []
    time = time or FakeTime()
    trial = Trial(passes, comes_up, time.monotonic_s, time.sleep_s)
    return Confirm(box.slots, box.record, box.mounted, said.append).after_start(trial), said


@pytest.fixture
def tried(tmp_path: Path) -> Box:
    """Slot b was written and GRUB has started it."""
    box = make_box(tmp_path)
    box.update(make_bundle(tmp_path, floor=OLD))
    box.disk.overwrite(box.places.grubenv, 0, BootState("a", "b", "0").encode())
    box.runs("b")
    return box


def result(box: Box) -> tuple[str, str]:
    last = box.record.last()
    assert last is not None
    return last.result, last.why


def test_a_trial_that_passes_stays(tried: Box) -> None:
    found, said = after_start(tried, passing)
    assert found is Standing.TRIAL
    assert tried.slots.state() == BootState("b")
    assert (tried.record.floor(), result(tried)) == (OLD, ("confirmed", ""))
    assert said[1:] == ["a packet went through", "slot b is confirmed: it is started from now on"]
    assert after_start(tried, failing)[0] is Standing.SETTLED, "the next start asks nothing"


def test_a_gateway_may_need_a_while(tried: Box) -> None:
    time = FakeTime()
    after_start(tried, lambda: passing() if time.now_s > 1040 else failing(), time=time)
    assert tried.slots.state().slot == "b"
    assert time.now_s < 1000 + DEADLINE_S


def test_a_trial_that_fails_is_over_after_three_minutes(tried: Box) -> None:
    time = FakeTime()
    with pytest.raises(HostError, match="slot b failed its trial: the gateway answers no handshake"):
        after_start(tried, failing, passing, time)
    assert DEADLINE_S - 3 <= time.now_s - 1000 <= DEADLINE_S
    assert tried.slots.state() == BootState("a", "b", "0"), "nothing is confirmed"
    assert tried.record.floor() == 0


def test_the_start_after_a_failed_trial_says_why(tried: Box) -> None:
    with pytest.raises(HostError):
        after_start(tried, failing)
    tried.runs("a")
    found, said = after_start(tried, failing)
    assert found is Standing.FELL_BACK
    assert "the gateway answers no handshake" in said[0]
    assert result(tried) == ("fell back", "the gateway answers no handshake")
    assert tried.slots.state() == BootState("a")
    assert after_start(tried, failing)[0] is Standing.SETTLED


def test_a_trial_that_never_came_up_is_recorded(tried: Box) -> None:
    tried.runs("a")
    assert after_start(tried, failing)[0] is Standing.FELL_BACK
    assert result(tried) == ("fell back", "it did not start")


def test_who_did_not_serve_before_need_only_come_up(tmp_path: Path) -> None:
    box = make_box(tmp_path)
    box.update(make_bundle(tmp_path), served=False)
    box.disk.overwrite(box.places.grubenv, 0, BootState("a", "b", "0").encode())
    box.runs("b")
    after_start(box, failing, passing)
    assert box.slots.state() == BootState("b")


def test_a_lost_grubenv_is_written_anew(tmp_path: Path) -> None:
    box = make_box(tmp_path)
    box.places.grubenv.write_bytes(bytes(1024))
    assert after_start(box, failing)[0] is Standing.LOST
    assert box.slots.state() == BootState("a")


def test_confirmation_by_hand(tried: Box) -> None:
    Confirm(tried.slots, tried.record, tried.mounted, lambda _: None).settle()
    assert tried.slots.state() == BootState("b")
    assert result(tried) == ("confirmed", "")


def test_the_record_of_another_update_is_not_touched(tried: Box, tmp_path: Path) -> None:
    """Slot b was installed anew by other means: what is remembered is not about it."""
    last = tried.record.last()
    assert last is not None and last.serial == NEW
    tried.places.on_esp("b", "slot.cfg").write_text(
        tried.places.on_esp("b", "slot.cfg").read_text().replace(str(NEW), str(NEW + 1))
    )
    after_start(tried, passing)
    assert (tried.record.last(), tried.record.floor()) == (last, 0)


@pytest.mark.parametrize("running", ["a", "b", "live"])
@pytest.mark.parametrize("slot", ["a", "b", ""])
@pytest.mark.parametrize("next_", ["a", "b", ""])
@pytest.mark.parametrize("try_", ["0", "1"])
def test_every_start_is_judged(running: str, slot: str, next_: str, try_: str) -> None:
    found = standing(running, BootState(slot, next_, try_))
    if running == "live":
        assert found is Standing.SETTLED
    elif running == slot:
        fell_back = next_ not in ("", running) and try_ == "0"
        assert found is (Standing.FELL_BACK if fell_back else Standing.SETTLED)
    elif running == next_ and try_ == "0":
        assert found is Standing.TRIAL
    else:
        assert found is (Standing.BY_HAND if slot else Standing.LOST)
