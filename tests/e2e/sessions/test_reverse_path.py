# SPDX-License-Identifier: Apache-2.0
"""A machine whose kernel filters strictly by the reverse path (rp_filter = 1), as some distributions set it up.

          ┌─ upa ── relay A ─┐      one address of the gateway, 10.9.0.1; the route by upa is the better one, so
client ───┤                  ├─── gateway      answers that come in by upb are dropped under strict filtering
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import pytest

from tests.e2e.sessions.bed import LONG_WINDOW, ONE_UPLINK, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.topology import PORT, SHARED, SIDES

DEVICES = tuple(f"up{side}" for side in SIDES)


def strict(bed: Bed) -> None:
    """The setting that is found on the machine; "default" is what a new device gets."""
    names = ("all", "default", *DEVICES)
    bed.topology.client.sysctl({f"net.ipv4.conf.{name}.rp_filter": 1 for name in names})


def filters(bed: Bed) -> list[str]:
    """rp_filter of the uplinks, then the global one."""
    names = [f"/proc/sys/net/ipv4/conf/{name}/rp_filter" for name in (*DEVICES, "all")]
    return bed.topology.client.run(["cat", *names]).stdout.split()


def shared_bed(make_bed: MakeBed) -> Bed:
    """Both uplinks lead to the same address."""
    bed = make_bed(policy=LONG_WINDOW, shared=True, endpoints=[f"{SHARED}:{PORT}"])
    strict(bed)
    return bed


def test_the_second_uplink_receives_and_all_is_put_back(make_bed: MakeBed) -> None:
    """A standby that is proven has received; then a stop in order, and kill -9 with `jvpn disconnect`."""
    bed = shared_bed(make_bed)
    bed.start()
    assert filters(bed) == ["2", "2", "1"]
    assert bed.client.daemon.stop() == 0
    assert filters(bed) == ["1", "1", "1"]
    bed.client.start()
    assert filters(bed) == ["2", "2", "1"]
    bed.client.daemon.kill()
    assert filters(bed) == ["2", "2", "1"]
    bed.client.daemon.disconnect()
    assert filters(bed) == ["1", "1", "1"]


def test_a_device_that_comes_back_is_let_in_again(make_bed: MakeBed) -> None:
    """Its settings went with it."""
    bed = shared_bed(make_bed)
    bed.start()
    bed.topology.take_device("b")
    bed.client.wait_view(lambda seen: not seen.with_status("STANDBY"), "the loss")
    bed.topology.bring_device("b")
    bed.client.wait_settled()
    assert filters(bed) == ["2", "2", "1"]


@pytest.mark.parametrize("endpoints", [ONE_UPLINK], ids=["one-uplink"])
def test_one_uplink_changes_nothing(make_bed: MakeBed, endpoints: tuple[str, ...]) -> None:
    bed = make_bed(policy=LONG_WINDOW, endpoints=endpoints)
    strict(bed)
    bed.start(settled=False)
    assert filters(bed) == ["1", "1", "1"]
