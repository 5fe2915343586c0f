# SPDX-License-Identifier: Apache-2.0
"""New keys under traffic: HELLO goes first under each, both ends seal under the old one until it is known whose the
new one is, and nothing is lost.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time

from tests.e2e.sessions.conftest import MakeBed
from tests.net.topology import boot_ns

KEYS = {"keys": {"rekey_after_time": "5s", "reject_after_time": "30s"}}


def test_rekeys_under_traffic_lose_nothing(make_bed: MakeBed) -> None:
    """Three of them in 17 s of 1,000 packets a second each way: same session, same binding, every packet arrives."""
    bed = make_bed(gateway_tables=KEYS, client_tables=KEYS)
    bed.start()
    before = bed.versions()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        time.sleep(17.0)
        ended_ns = boot_ns()
        log = stream.stop()
    for journal in bed.ends():
        keys = [body["trigger"] for body in journal.of("KEY_EVENT", since_ns=began_ns)]
        assert keys.count("INSTALLED") >= 3
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    assert bed.versions() == before
    bed.same_session()
