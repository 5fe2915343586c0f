# SPDX-License-Identifier: Apache-2.0
"""What every scenario stands on: the two-uplink topology, our gateway, our client, their journals.

Rule: policies are shortened, assertions are not. Whatever a scenario is about, at its end both ends stop and their
journals must be whole (chain, signatures), break no invariant, agree with each other and replay to the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.net import journal
from tests.net.jump import JumpClient, JumpGateway, SessionView, end, verify_ends
from tests.net.lab import Lab, LabError
from tests.net.stream import StreamLog
from tests.net.topology import ENDPOINTS, Topology, boot_ns

Policy = Mapping[str, Mapping[str, Any]]
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
# The shortest window that the bounds allow: 60 s / (reserved + 1) + attempt_timeout must be below it.
SHORT_WINDOW: Final[Policy] = {
    "session": {"transport_lost_ttl": "4s"},
    "switching": {"max_switches_per_min": 60, "reserved": 59, "attempt_timeout": "1s"},
}
WINDOW_S: Final = 4.0
# A window that outlives what the test does in it, with quick episodes.
LONG_WINDOW: Final[Policy] = {
    "session": {"transport_lost_ttl": "40s"},
    "switching": {
        "max_switches_per_min": 20,
        "reserved": 10,
        "attempt_timeout": "1s",
        "backoff_max": "500ms",
    },
}
ONE_UPLINK: Final = ENDPOINTS[:1]


class Bed:
    """One scenario's machines."""

    def __init__(
        self,
        lab: Lab,
        *,
        policy: Policy | None = None,
        client_policy: Policy | None = None,
        peers: int = 1,
        second_client: bool = False,
        endpoints: Sequence[str] = ENDPOINTS,
        gateway_tables: Mapping[str, Mapping[str, Any]] | None = None,
        client_tables: Mapping[str, Mapping[str, Any]] | None = None,
        peer_options: Mapping[str, Any] | None = None,
        client_protocol: str | None = None,
        shared: bool = False,
        seed: int = 1,
        prefix: str = "",
    ) -> None:
        self.lab = lab
        self.topology = Topology.build(lab, prefix, second_client=second_client, seed=seed, shared=shared)
        self.gateway = JumpGateway(
            lab,
            self.topology,
            peers=peers,
            policy=policy,
            tables=gateway_tables,
            peer_options=peer_options,
        )
        self.client = self.gateway.client(
            endpoints=endpoints, policy=client_policy, tables=client_tables, protocol=client_protocol
        )
        self.clients = [self.client]
        self.ident = ""
        self.meant = ""  # words of the fault that a scenario has made in the gateway's chain

    def start(self, settled: bool = True) -> SessionView:
        """Start both and wait until the session stands, with a validated standby unless told otherwise."""
        self.gateway.daemon.start()
        seen = self.client.start(settled)
        self.ident = seen.session_id
        return seen

    def another_client(self, number: int, **options: Any) -> JumpClient:
        """A further client, stopped and verified like the first one."""
        made = self.gateway.client(number, **options)
        self.clients.append(made)
        return made

    # --- what scenarios ask again and again ---------------------------------------------------------------------------

    def same_session(self, timeout_s: float = 10.0) -> SessionView:
        """Both ends are ATTACHED again and it is still the session of the beginning, the only one there ever was."""
        seen = self.client.wait_attached(timeout_s)
        assert seen.session_id == self.ident
        assert self.client.journal.session_ids() == [self.ident]
        assert self.created() == [self.ident]
        return seen

    def created(self) -> list[str]:
        """Every session that the gateway has created for the first client's peer."""
        name = f"peer{self.client.number}"
        return [b["session_id"] for b in self.gateway.journal.of("SESSION_CREATED") if b["peer"] == name]

    def ends(self) -> tuple[journal.Journal, journal.Journal]:
        """Both journals, read up to now."""
        self.client.journal.poll()
        self.gateway.journal.poll()
        return self.client.journal, self.gateway.journal

    def versions(self) -> tuple[int, int, int, str]:
        """The gateway's version, epoch, path and address of the session: what an attacker must not change."""
        seen = self.gateway.session_of(self.ident)
        return seen.version, seen.epoch, seen.path_id or 0, seen.path or ""

    def gateway_sends_to(self) -> str:
        """``HOST:PORT`` that the gateway sends the peer's packets to."""
        return str(self.gateway.daemon.peer("peer0")["endpoint"] or "")

    def switches(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """The client's switches."""
        return self.client.journal.of("TRANSPORT_SWITCH", since_ns=since_ns)

    def terminated(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wait until both ends have ended the session; their last transitions."""
        last = [
            one.wait(
                lambda body: body["event"] == "STATE_CHANGE" and body["new_state"] == "TERMINATED",
                "TERMINATED",
                timeout_s,
            )
            for one in (self.client.journal, self.gateway.journal)
        ]
        return last[0], last[1]

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop everything that still runs; a daemon that ends badly is a failure."""
        for daemon in (*(client.daemon for client in self.clients), self.gateway.daemon):
            try:
                assert daemon.stop() == 0, f"{daemon.command} ended badly\n{daemon.folder}"
            except LabError:
                continue  # it does not run any more
        self.topology.close()

    def kill(self) -> None:
        """For a scenario that has failed already."""
        for client in self.clients:
            end(client.daemon)
        end(self.gateway.daemon)
        self.topology.close()

    def problems(self) -> list[str]:
        """Everything wrong with the journals of all ends."""
        ran = [one for one in self.clients if (one.daemon.state_dir / journal.FOLDER).exists()]
        if not ran:
            return journal.problems(self.gateway.daemon.state_dir)
        return [text for client in ran for text in verify_ends(client, self.gateway, self.meant)]


def outage_ms(log: StreamLog, cut_ns: int, until_ns: int | None = None) -> tuple[float, float]:
    """Longest gaps up and down since the cut."""
    end_ns = until_ns or boot_ns()
    return log.up.longest_gap(cut_ns, end_ns).ms, log.down.longest_gap(cut_ns, end_ns).ms


def in_order(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether ``wanted`` occurs in ``found`` in this order, other entries in between allowed."""
    rest = iter(found)
    return all(any(one == other for other in rest) for one in wanted)
