# SPDX-License-Identifier: Apache-2.0
"""What a handshake costs in Python, and what refusing one costs."""

from __future__ import annotations

import hashlib
from itertools import count

from pytest_benchmark.fixture import BenchmarkFixture

from gateway.constants import NS_PER_S
from gateway.noise.admission import Admission, Verdict
from gateway.noise.cookie import CookieChecker
from gateway.noise.handshake import Identity, PeerKeys, TransportKeys, read_static
from gateway.noise.peer import PeerHandshake
from gateway.noise.timestamp import tai64n

STEP_NS = 10 * NS_PER_S
SOURCE = bytes((192, 0, 2, 1, 0xCA, 0x6C))


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Ends:
    """A client and a gateway that have spoken before, so the static-static secrets are computed."""

    def __init__(self) -> None:
        self.client, self.gateway = Identity(secret("client")), Identity(secret("gateway"))
        self.at_client = PeerHandshake(PeerKeys(self.client, self.gateway.public, secret("psk")))
        self.at_gateway = PeerHandshake(PeerKeys(self.gateway, self.client.public, secret("psk")))
        self.respond(self.initiate(STEP_NS), STEP_NS)

    def initiate(self, now_ns: int) -> bytes:
        return self.at_client.initiate(
            now_ns, local_index=1, timestamp=tai64n(now_ns), ephemeral_private=secret("client ephemeral")
        )

    def respond(self, message: bytes, now_ns: int) -> tuple[bytes, TransportKeys]:
        received = read_static(self.gateway, message).verify(self.at_gateway.keys)
        return self.at_gateway.accept(
            now_ns, received, local_index=2, ephemeral_private=secret("gateway ephemeral")
        )


def gate(under_load_per_s: int) -> Admission:
    checker = CookieChecker(Identity(secret("gateway")).public, lambda size: secret("gate")[:size])
    return Admission(checker, table_key=secret("table"), under_load_per_s=under_load_per_s)


def test_handshake_both_sides(benchmark: BenchmarkFixture) -> None:
    """Initiation, response and both key derivations."""
    ends, ticks = Ends(), count(2)

    def handshake() -> TransportKeys:
        now_ns = next(ticks) * STEP_NS
        response, _ = ends.respond(ends.initiate(now_ns), now_ns)
        return ends.at_client.receive_response(now_ns, response)

    assert benchmark(handshake).is_initiator


def test_handshake_responder(benchmark: BenchmarkFixture) -> None:
    """What one handshake costs the gateway: admission, reading, responding, deriving."""
    ends, ticks, admission = Ends(), count(2), gate(1 << 40)

    def arrive() -> tuple[tuple[bytes, int], dict[str, object]]:
        now_ns = next(ticks) * STEP_NS
        return (ends.initiate(now_ns), now_ns), {}

    def respond(message: bytes, now_ns: int) -> tuple[bytes, TransportKeys]:
        assert admission.check(now_ns, message, SOURCE, SOURCE[:4]) is Verdict.ACCEPT
        return ends.respond(message, now_ns)

    benchmark.pedantic(respond, setup=arrive, rounds=1000, warmup_rounds=20)


def test_admission_accepts(benchmark: BenchmarkFixture) -> None:
    """mac1 of a genuine initiation on a calm gateway."""
    message = Ends().initiate(2 * STEP_NS)
    assert benchmark(gate(1 << 40).check, STEP_NS, message, SOURCE, SOURCE[:4]) is Verdict.ACCEPT


def test_admission_refuses_bad_mac1(benchmark: BenchmarkFixture) -> None:
    """A flood of someone who does not know the public key."""
    message = Ends().initiate(2 * STEP_NS)[:116] + bytes(32)
    assert benchmark(gate(1 << 40).check, STEP_NS, message, SOURCE, SOURCE[:4]) is Verdict.BAD_MAC1


def test_admission_asks_for_a_cookie(benchmark: BenchmarkFixture) -> None:
    """A flood under load: the verdict and the reply."""
    message, admission = Ends().initiate(2 * STEP_NS), gate(0)

    def refuse() -> bytes:
        assert admission.check(STEP_NS, message, SOURCE, SOURCE[:4]) is Verdict.COOKIE_REQUIRED
        return admission.make_reply(STEP_NS, message, SOURCE, bytes(24))

    assert len(benchmark(refuse)) == 64
