# SPDX-License-Identifier: Apache-2.0
"""B26, B28, B31: audit sinks that fail, journals that replay, processes that die.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from gateway.control import auditread
from tests.e2e.sessions.bed import LONG_WINDOW, NS_PER_S, SHORT_WINDOW, WINDOW_S, Bed, in_order
from tests.e2e.sessions.conftest import MakeBed
from tests.net import journal
from tests.net.jvpn import Daemon
from tests.net.lab import Lab
from tests.net.topology import BACKEND, SIDES, boot_ns
from tests.net.traffic import ping, wait_reachable

TINY_KB: Final = 4096

# --- B26: audit sinks --------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(lab: Lab) -> Iterator[Callable[[Path], None]]:
    """Mounts a file system that is soon full. (It takes ``lab``, so it goes after the verifier has read it.)"""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={TINY_KB}k,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jvtest", str(folder)], check=True)
        mounted.append(folder)

    assert lab.tmp.exists()
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def busy(bed: Bed, times: int) -> None:
    """Switch to and fro."""
    for _ in range(times):
        bed.client.wait_settled()
        bed.client.switch(bed.client.standby().side)
        # A discretionary switch straight back is suppressed for 2 s.
        time.sleep(2.5)


def test_b26_a_full_disk_costs_at_most_records(tiny_disk: Callable[[Path], None], make_bed: MakeBed) -> None:
    """Traffic unaffected, switches work; with room again what waited in memory is written, or its AUDIT_GAP."""
    bed = make_bed(policy=LONG_WINDOW)
    folder = bed.gateway.daemon.state_dir / journal.FOLDER
    tiny_disk(folder)
    bed.start()
    filler = folder / "filler"
    with bed.client.stream() as stream:
        time.sleep(0.5)
        began_ns = boot_ns()
        fill(filler)
        busy(bed, 2)
        ended_ns = boot_ns()
        filler.unlink()
        switched = bed.client.view().epoch
        bed.gateway.journal.wait(
            lambda b: (
                b["event"] == "AUDIT_GAP" or (b["event"] == "STATE_CHANGE" and b["binding_epoch"] == switched)
            ),
            "what happened while the disk was full, or its gap",
            15.0,
        )
        busy(bed, 1)
        log = stream.stop()
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    assert bed.client.view().session_id == bed.ident


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_b26_a_journal_that_is_removed_is_begun_again(make_bed: MakeBed) -> None:
    """Somebody deletes the files under a running gateway: traffic unaffected, a new file says what became of them."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.meant = "(previous: lost)"
    bed.start()
    with bed.client.stream() as stream:
        time.sleep(0.5)
        began_ns = boot_ns()
        for path in (bed.gateway.daemon.state_dir / journal.FOLDER).glob("*.jsonl"):
            path.unlink()
        busy(bed, 2)
        log = stream.stop()
    assert (log.up.lost(began_ns), log.down.lost(began_ns)) == ([], [])
    names = [body["event"] for body in bed.gateway.journal.of("STATE_CHANGE", since_ns=began_ns)]
    assert len(names) >= 6
    bed.close()
    (broken,) = auditread.verify(auditread.named_files([bed.gateway.daemon.state_dir / journal.FOLDER]), None)
    assert broken.fault is not None and bed.meant in broken.fault.why


# --- B28: determinism --------------------------------------------------------------------------------------------


def test_b28_a_real_journal_replays_to_identical_decisions(make_bed: MakeBed) -> None:
    """What the machine decided on real sockets it decides again, every time, from the recorded inputs alone."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    with bed.client.stream(200.0) as stream:
        for side in SIDES:
            bed.topology.uplinks[side].blackhole("both")
            time.sleep(1.5)
            bed.topology.uplinks[side].heal()
            time.sleep(1.5)
        stream.stop()
    bed.client.wait_attached()
    bed.close()
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        files = auditread.named_files([daemon.state_dir / journal.FOLDER])
        first, second = auditread.replay(files)[0], auditread.replay(files)[0]
        assert first == second
        assert first.fault is None
        assert (first.decisions > 10, first.partial) == (True, 0)
        daemon.cli("audit", "verify")
        daemon.cli("audit", "replay")


# --- B31: restarts -----------------------------------------------------------------------------------------------


def test_b31_a_killed_gateway_resumes_its_sessions(make_bed: MakeBed) -> None:
    """kill -9, start again: T22, resume, REATTACH; same id, TCP lives, versions go on without a hole or a repeat."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        killed_ns = boot_ns()
        bed.gateway.daemon.kill()
        time.sleep(1.0)
        bed.gateway.daemon.start()
        bed.client.wait_attached(20.0)
        time.sleep(2.0)
        back_ns = boot_ns() - NS_PER_S
        log = stream.stop()
    bed.same_session()
    theirs = bed.gateway.journal
    assert in_order(["T22", "T13"], theirs.rows(killed_ns))
    assert "OWNER_RESTARTED" in theirs.reasons(killed_ns)
    assert log.up.arrived_after(back_ns) > 500 and log.down.arrived_after(back_ns) > 500
    assert log.tcp.alive_after(back_ns), log.tcp


def test_b31_a_gateway_killed_between_its_ack_and_the_disk_agrees_again(make_bed: MakeBed) -> None:
    """I22: the store still has the binding before. The client's claim is the greater one, nothing old is accepted."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    target = bed.client.standby()
    target.relay.record("up", 200)
    with writer_held(bed.gateway.daemon.state_dir / "sessions-jv0.db") as stored_epoch:
        bed.client.switch(target.side)
        mine = bed.client.wait_view(lambda seen: seen.epoch == 2 and seen.state == "ATTACHED", "the ACK")
        assert bed.gateway.session_of(bed.ident).epoch == 2
        bed.gateway.daemon.kill()
        assert stored_epoch() == 1
    killed_ns = boot_ns()
    old = target.relay.recorded("up")
    bed.gateway.daemon.start()
    bed.client.wait_settled(20.0)
    again = bed.same_session()
    restored = bed.gateway.journal.wait(lambda b: b["event"] == "RESTORE", "the session", since_ns=killed_ns)
    assert restored["fields"]["record"]["epoch"] == 1
    assert again.epoch == bed.gateway.session_of(bed.ident).epoch > mine.epoch
    commits = [b for b in bed.gateway.journal.of("REATTACH_RESULT") if b["accepted"]]
    assert (
        len({b["binding_epoch"] for b in commits}) == len({b["attempt_id"] for b in commits}) == len(commits)
    )
    before, refused = bed.versions(), refusals(bed.gateway.daemon)
    for index in range(len(old)):
        target.relay.replay("up", index)
    poll_until(
        lambda: refusals(bed.gateway.daemon) >= refused + len(old) // 2, "the old datagrams are refused"
    )
    assert bed.versions() == before


@contextmanager
def writer_held(database: Path) -> Iterator[Callable[[], int]]:
    """Keep the gateway's writer from committing; yields what asks for the stored epoch of the only session."""
    with closing(sqlite3.connect(database, isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        try:
            yield lambda: int(held.execute("SELECT epoch FROM sessions").fetchone()[0])
        finally:
            held.execute("ROLLBACK")


def refusals(gateway: Daemon) -> int:
    """Datagrams under keys that nobody has any more."""
    names = (
        "drop_index",
        "drop_stale_generation",
        "drop_no_key",
        "drop_auth",
        "drop_replay_seen",
        "drop_replay_old",
    )
    return sum(gateway.counter(name) for name in names)


def poll_until(wanted: Callable[[], bool], what: str, timeout_s: float = 5.0) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + timeout_s
    while not wanted():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_b31_a_restarted_client_resumes_its_session(make_bed: MakeBed, how: str) -> None:
    """HELLO with the stored id, REATTACH above the last attempt; the gateway created one session only."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    time.sleep(1.0)
    if how == "kill":
        bed.client.daemon.kill()
    else:
        bed.client.daemon.stop()
    time.sleep(0.5)
    bed.client.daemon.start()
    seen = bed.client.wait_attached(20.0)
    assert seen.session_id == bed.ident
    assert bed.gateway.journal.session_ids() == [bed.ident]
    with bed.client.stream() as stream:
        time.sleep(1.0)
        log = stream.stop()
    assert log.up.arrived_after(0) > 500


@pytest.mark.parametrize("judged", [True, False], ids=["known-as-stock", "before-the-verdict"])
@pytest.mark.parametrize("protocol", ["wireguard", "auto"])
def test_b31_a_client_restarted_on_a_stock_gateway_is_attached_by_its_handshake(
    make_bed: MakeBed, protocol: str, judged: bool
) -> None:
    """No WELCOME will ever bind it. Its first uplink is gone meanwhile: the handshake by the other one counts."""
    bed = make_bed(policy=LONG_WINDOW, peer_options={"protocol": "wireguard"}, client_protocol=protocol)
    bed.start(settled=False)
    if judged:
        bed.client.wait_view(lambda seen: seen.stock, "the verdict")
    left = bed.client.active().side
    bed.client.daemon.kill()
    bed.topology.set_link(left, False)
    since_ns = boot_ns()
    bed.client.daemon.start()
    wait_reachable(bed.topology.client, BACKEND)
    seen = bed.client.wait_view(lambda seen: seen.state == "ATTACHED", "ATTACHED", 10.0)
    assert (seen.session_id, seen.stock) == (bed.ident, True)
    assert bed.client.active().side == bed.topology.other(left).side
    bed.client.journal.wait(lambda body: body.get("row") == "T13", "T13 on disk", since_ns=since_ns)
    assert bed.client.journal.rows(since_ns) == ["T22", "T11", "T13"]
    assert bed.client.journal.of("REATTACH_ATTEMPT", since_ns=since_ns) == []
    assert ping(bed.topology.client, BACKEND, count=5).received == 5


def test_a_stock_gateway_that_falls_silent_is_noticed_and_attached_again(make_bed: MakeBed) -> None:
    """Data sent, nothing back for 15 s: the only death of a stock session, here at its client. A handshake mends it."""
    bed = make_bed(policy=LONG_WINDOW, peer_options={"protocol": "wireguard"}, client_protocol="wireguard")
    bed.start(settled=False)
    wait_reachable(bed.topology.client, BACKEND)
    since_ns, pid = boot_ns(), bed.gateway.daemon.proc.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert ping(bed.topology.client, BACKEND, count=3).received == 0
        bed.client.wait_view(lambda seen: seen.path is None, "the silence to be noticed", 25.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    seen = bed.client.wait_view(lambda seen: seen.state == "ATTACHED", "ATTACHED", 15.0)
    assert (seen.session_id, seen.stock) == (bed.ident, True)
    assert ping(bed.topology.client, BACKEND, count=5).received == 5
    bed.client.journal.wait(lambda body: body.get("row") == "T13", "T13 on disk", since_ns=since_ns)
    assert bed.client.journal.rows(since_ns) == ["T5", "T11", "T13"]


def test_b31_outside_the_window_it_is_an_explicit_end(make_bed: MakeBed) -> None:
    """The gateway comes back too late: the client has ended the session, coded, and both make a new one."""
    bed = make_bed(policy=SHORT_WINDOW)
    bed.start()
    bed.gateway.daemon.kill()
    last = bed.client.journal.wait(
        lambda body: body["event"] == "STATE_CHANGE" and body["new_state"] == "TERMINATED",
        "the end",
        WINDOW_S + 6,
    )
    assert last["row"] == "T16"
    bed.gateway.daemon.start()
    # Nothing to send, nothing to greet for: the first packet makes the new session.
    wait_reachable(bed.topology.client, BACKEND, 30.0)
    seen = bed.client.wait_attached(10.0)
    assert seen.session_id != bed.ident
