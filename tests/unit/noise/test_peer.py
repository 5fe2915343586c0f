# SPDX-License-Identifier: Apache-2.0
"""One peer over time: handshakes both ways, replays, retransmission, giving up. The clock is an integer."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.constants import INITIATION_INTERVAL_NS, NS_PER_S, REKEY_TIMEOUT_JITTER_MAX_NS
from gateway.errors import AuthError, ProtocolError
from gateway.noise.cookie import CookieChecker
from gateway.noise.peer import Due, HandshakeRefused, PeerHandshake, Refusal
from gateway.noise.timers import Timers
from tests.unit.noise.endpoints import PSK, START_NS, Endpoint, agree, pair, secret

SOURCE = bytes(6)
NONCE = bytes(24)


def complete(a: Endpoint, b: Endpoint, now_ns: int = START_NS) -> None:
    response, responder_keys = b.accept(now_ns, a.initiate(now_ns))
    assert agree(a.peer.receive_response(now_ns, response), responder_keys)


@pytest.mark.parametrize("psk", [bytes(32), PSK], ids=["no-psk", "psk"])
def test_handshake(psk: bytes) -> None:
    a, b = pair(psk=psk)
    initiation = a.initiate(START_NS)
    assert len(initiation) == wire.INITIATION_BYTES
    assert a.peer.pending_index == wire.sender_index(initiation)
    response, responder_keys = b.accept(START_NS, initiation)
    assert len(response) == wire.RESPONSE_BYTES
    keys = a.peer.receive_response(START_NS, response)
    assert agree(keys, responder_keys)
    assert a.peer.pending_index is None
    assert a.peer.next_deadline(0) is None


def test_rekeys_in_both_directions() -> None:
    a, b = pair()
    for round_ in range(6):
        first, second = (a, b) if round_ % 2 else (b, a)
        complete(first, second, START_NS + round_ * 120 * NS_PER_S)


def test_both_at_once_complete_both() -> None:
    a, b = pair()
    to_b, to_a = a.initiate(START_NS), b.initiate(START_NS)
    response_of_b, keys_b = b.accept(START_NS, to_b)
    response_of_a, keys_a = a.accept(START_NS, to_a)
    assert agree(a.peer.receive_response(START_NS, response_of_b), keys_b)
    assert agree(b.peer.receive_response(START_NS, response_of_a), keys_a)


class TestRefusals:
    """What is refused leaves the state as it was."""

    def test_wrong_psk(self) -> None:
        a, b = pair(psk=PSK, psk_b=bytes(32))
        response, _ = b.accept(START_NS, a.initiate(START_NS))
        before = a.state()
        with pytest.raises(AuthError):
            a.peer.receive_response(START_NS, response)
        assert a.state() == before

    def test_response_twice(self) -> None:
        a, b = pair()
        response, _ = b.accept(START_NS, a.initiate(START_NS))
        a.peer.receive_response(START_NS, response)
        before = a.state()
        with pytest.raises(HandshakeRefused) as refused:
            a.peer.receive_response(START_NS, response)
        assert refused.value.reason is Refusal.NOT_EXPECTED
        assert a.state() == before

    @pytest.mark.parametrize("offset", [*range(4), *range(8, 60)])
    def test_tampered_response_then_the_genuine_one(self, offset: int) -> None:
        a, b = pair()
        response, keys = b.accept(START_NS, a.initiate(START_NS))
        forged = bytearray(response)
        forged[offset] ^= 1
        before = a.state()
        with pytest.raises(AuthError):
            a.peer.receive_response(START_NS, bytes(forged))
        assert a.state() == before
        assert agree(a.peer.receive_response(START_NS, response), keys)

    def test_replayed_initiation(self) -> None:
        a, b = pair()
        initiation = a.initiate(START_NS)
        b.accept(START_NS, initiation)
        before = b.state()
        with pytest.raises(HandshakeRefused) as refused:
            b.accept(START_NS + NS_PER_S, initiation)
        assert refused.value.reason is Refusal.TIMESTAMP_REPLAYED
        assert b.state() == before

    def test_out_of_order_initiations(self) -> None:
        a, b = pair()
        older = a.initiate(START_NS)
        newer = a.initiate(START_NS + 5 * NS_PER_S)
        response, keys = b.accept(START_NS + 6 * NS_PER_S, newer)
        before = b.state()
        with pytest.raises(HandshakeRefused):
            b.accept(START_NS + 7 * NS_PER_S, older)
        assert b.state() == before
        assert agree(a.peer.receive_response(START_NS + 8 * NS_PER_S, response), keys)

    def test_response_to_a_superseded_initiation(self) -> None:
        a, b = pair()
        late, _ = b.accept(START_NS, a.initiate(START_NS))
        response, keys = b.accept(START_NS + 5 * NS_PER_S, a.initiate(START_NS + 5 * NS_PER_S))
        with pytest.raises(AuthError):
            a.peer.receive_response(START_NS + 6 * NS_PER_S, late)
        assert agree(a.peer.receive_response(START_NS + 6 * NS_PER_S, response), keys)

    def test_initiations_faster_than_fifty_a_second(self) -> None:
        a, b = pair()
        first, second = a.initiate(START_NS), a.initiate(START_NS + 5 * NS_PER_S)
        b.accept(START_NS, first)
        before = b.state()
        with pytest.raises(HandshakeRefused) as refused:
            b.accept(START_NS + INITIATION_INTERVAL_NS - 1, second)
        assert refused.value.reason is Refusal.TOO_SOON
        assert b.state() == before
        b.accept(START_NS + INITIATION_INTERVAL_NS, second)

    def test_refusals_are_protocol_errors(self) -> None:
        assert issubclass(HandshakeRefused, ProtocolError)

    def test_cookie_before_anything_was_sent(self) -> None:
        a, _ = pair()
        with pytest.raises(HandshakeRefused):
            a.peer.receive_cookie(START_NS, bytes(64))

    @given(st.binary(max_size=160))
    def test_garbage(self, garbage: bytes) -> None:
        a, _ = pair()
        a.initiate(START_NS)
        before = a.state()
        for receive in (a.peer.receive_response, a.peer.receive_cookie):
            with pytest.raises(AuthError):
                receive(START_NS, garbage)
        assert a.state() == before

    def test_initiation_of_another_peer_is_a_mistake_of_the_caller(self) -> None:
        a, b = pair()
        opened = b.open(a.initiate(START_NS))
        with pytest.raises(ValueError, match="another peer"):
            a.peer.accept(START_NS, opened, local_index=1, ephemeral_private=secret("e"))


class TestStoredTimestamp:
    """The greatest stamp survives a restart of the gateway."""

    def test_replay_after_restart(self) -> None:
        a, b = pair()
        initiation = a.initiate(START_NS)
        b.accept(START_NS, initiation)
        stored = b.peer.greatest_timestamp
        restarted = Endpoint("b", b.ours, PeerHandshake(b.peer.keys, greatest_timestamp=stored))
        with pytest.raises(HandshakeRefused):
            restarted.accept(START_NS, initiation)

    def test_a_store_cannot_turn_it_back(self) -> None:
        a, b = pair()
        complete(a, b)
        newest = b.peer.greatest_timestamp
        b.peer.greatest_timestamp = bytes(12)
        assert b.peer.greatest_timestamp == newest
        with pytest.raises(ValueError, match="12 bytes"):
            b.peer.greatest_timestamp = bytes(11)


class TestCookies:
    """A gateway under load asks for mac2; initiations and responses both learn it."""

    def gate(self, endpoint: Endpoint) -> CookieChecker:
        return CookieChecker(endpoint.ours.public, lambda size: secret("gate")[:size])

    def test_initiator_comes_back_with_the_cookie(self) -> None:
        a, b = pair()
        gate = self.gate(b)
        first = a.initiate(START_NS)
        a.peer.receive_cookie(START_NS, gate.make_reply(START_NS, first, SOURCE, NONCE))
        assert a.peer.pending_index is not None
        assert not a.peer.may_initiate(START_NS + NS_PER_S)
        second = a.initiate(START_NS + 5 * NS_PER_S)
        assert gate.mac2_valid(START_NS + 5 * NS_PER_S, second, SOURCE)
        response, keys = b.accept(START_NS + 5 * NS_PER_S, second)
        assert agree(a.peer.receive_response(START_NS + 5 * NS_PER_S, response), keys)

    def test_responder_comes_back_with_the_cookie(self) -> None:
        a, b = pair()
        gate = self.gate(a)
        response, _ = b.accept(START_NS, a.initiate(START_NS))
        b.peer.receive_cookie(START_NS, gate.make_reply(START_NS, response, SOURCE, NONCE))
        again, _ = b.accept(START_NS + 5 * NS_PER_S, a.initiate(START_NS + 5 * NS_PER_S))
        assert gate.mac2_valid(START_NS + 5 * NS_PER_S, again, SOURCE)

    def test_cookie_grows_old(self) -> None:
        a, b = pair()
        gate = self.gate(b)
        a.peer.receive_cookie(START_NS, gate.make_reply(START_NS, a.initiate(START_NS), SOURCE, NONCE))
        assert wire.mac2(a.initiate(START_NS + 119 * NS_PER_S)) != wire.NO_MAC
        assert wire.mac2(a.initiate(START_NS + 125 * NS_PER_S)) == wire.NO_MAC

    def test_forged_cookie_changes_nothing(self) -> None:
        a, b = pair()
        reply = bytearray(self.gate(b).make_reply(START_NS, a.initiate(START_NS), SOURCE, NONCE))
        reply[40] ^= 1
        before = a.state()
        with pytest.raises(AuthError):
            a.peer.receive_cookie(START_NS, bytes(reply))
        assert a.state() == before


class TestSchedule:
    """Retransmission every 5 s with jitter, giving up after 90 s."""

    def test_idle_has_no_deadline(self) -> None:
        a, _ = pair()
        assert a.peer.next_deadline(0) is None
        assert a.peer.timer_due(START_NS) is Due.NONE
        assert a.peer.cancel() is None

    def test_full_attempt(self) -> None:
        a, _ = pair()
        now, sent = START_NS, []
        a.initiate(now)
        sent.append(now)
        for jitter in range(0, 100 * NS_PER_S, NS_PER_S // 20):
            deadline = a.peer.next_deadline(jitter)
            assert deadline is not None
            assert deadline > now
            now = deadline
            due = a.peer.timer_due(now)
            if due is Due.GIVE_UP:
                break
            assert due is Due.RESEND
            a.initiate(now)
            sent.append(now)
        gaps = [later - earlier for earlier, later in pairwise(sent)]
        assert now == START_NS + 90 * NS_PER_S
        assert all(5 * NS_PER_S <= gap <= 5 * NS_PER_S + REKEY_TIMEOUT_JITTER_MAX_NS for gap in gaps)
        assert len(sent) == 17 or len(sent) == 18

    def test_not_before_its_time(self) -> None:
        a, _ = pair()
        a.initiate(START_NS)
        assert a.peer.timer_due(START_NS + 5 * NS_PER_S - 1) is Due.NONE
        assert a.peer.timer_due(START_NS + 5 * NS_PER_S) is Due.RESEND
        before = a.state()
        with pytest.raises(HandshakeRefused) as refused:
            a.initiate(START_NS + 5 * NS_PER_S - 1)
        assert refused.value.reason is Refusal.TOO_SOON
        assert a.state() == before

    def test_give_up_says_so_until_cancelled(self) -> None:
        a, _ = pair()
        a.initiate(START_NS)
        index = a.peer.pending_index
        late = START_NS + 90 * NS_PER_S
        assert [a.peer.timer_due(late), a.peer.timer_due(late)] == [Due.GIVE_UP, Due.GIVE_UP]
        assert a.peer.cancel() == index
        assert a.peer.timer_due(late) is Due.NONE

    def test_user_traffic_prolongs_the_attempt(self) -> None:
        a, _ = pair()
        a.initiate(START_NS)
        a.peer.restart_attempt(START_NS + 60 * NS_PER_S)
        assert a.peer.timer_due(START_NS + 90 * NS_PER_S) is Due.RESEND
        assert a.peer.timer_due(START_NS + 150 * NS_PER_S) is Due.GIVE_UP

    def test_a_new_attempt_counts_from_its_start(self) -> None:
        a, b = pair()
        complete(a, b)
        a.initiate(START_NS + 1000 * NS_PER_S)
        assert a.peer.timer_due(START_NS + 1089 * NS_PER_S) is Due.RESEND

    def test_retransmission_is_a_new_message(self) -> None:
        a, _ = pair()
        one, two = a.initiate(START_NS), a.initiate(START_NS + 5 * NS_PER_S)
        assert one[4:132] != two[4:132]
        assert a.peer.pending_index == wire.sender_index(two)

    def test_response_after_cancel(self) -> None:
        a, b = pair()
        response, _ = b.accept(START_NS, a.initiate(START_NS))
        a.peer.cancel()
        with pytest.raises(HandshakeRefused):
            a.peer.receive_response(START_NS, response)

    def test_shortened_timers(self) -> None:
        a, _ = pair(timers=Timers(rekey_timeout_ns=NS_PER_S, rekey_attempt_time_ns=3 * NS_PER_S))
        a.initiate(START_NS)
        assert a.peer.next_deadline(0) == START_NS + NS_PER_S
        assert a.peer.timer_due(START_NS + 3 * NS_PER_S) is Due.GIVE_UP


def test_idle_peer_is_small() -> None:
    """One that has completed a handshake keeps under 600 bytes of its own; 100,000 of them are 60 MB."""
    a, b = pair()
    complete(a, b)
    for peer in (a.peer, b.peer):
        jar = peer._jar
        assert jar is not None
        own = [peer, jar, peer._greatest_timestamp, peer._attempt_ns, peer._sent_ns, peer._accepted_ns]
        kept = [jar._mac1, jar._sender_index]
        assert sum(sys.getsizeof(value) for value in own + kept) < 600
        assert not hasattr(peer, "__dict__")


def test_no_secret_in_the_repr() -> None:
    a, _ = pair(psk=PSK)
    a.initiate(START_NS)
    for value in (PSK, a.ours.private, secret("ephemeral a 1")):
        assert value.hex() not in repr(a.peer)
        assert repr(value)[2:-1] not in repr(a.peer)


class TestCrossing:
    """Both ends have begun: what the exchange asks before it answers, and what it does instead."""

    def test_an_initiation_crosses_until_its_response_or_its_retry(self) -> None:
        a, b = pair()
        assert not a.peer.crosses(START_NS)
        initiation = a.initiate(START_NS)
        assert a.peer.crosses(START_NS + 5 * NS_PER_S - 1)
        assert not a.peer.crosses(START_NS + 5 * NS_PER_S)
        response, _ = b.accept(START_NS, initiation)
        a.peer.receive_response(START_NS, response)
        assert not a.peer.crosses(START_NS)

    def test_passing_over_spends_the_stamp_and_nothing_else(self) -> None:
        a, b = pair()
        initiation = b.initiate(START_NS)
        a.initiate(START_NS)
        before = a.state()
        a.peer.pass_over(START_NS, a.open(initiation))
        assert a.state()[:4] == before[:4]
        assert a.peer.pending_index is not None
        with pytest.raises(HandshakeRefused) as refused:
            a.accept(START_NS + NS_PER_S, initiation)
        assert refused.value.reason is Refusal.TIMESTAMP_REPLAYED
        with pytest.raises(HandshakeRefused):
            a.peer.pass_over(START_NS + NS_PER_S, a.open(initiation))
        a.accept(START_NS + 5 * NS_PER_S, b.initiate(START_NS + 5 * NS_PER_S))

    def test_an_answer_is_waited_for_until_its_proof(self) -> None:
        a, b = pair()
        assert b.peer.waits_until_ns(START_NS) is None
        b.accept(START_NS, a.initiate(START_NS))
        assert b.peer.waits_until_ns(START_NS) == START_NS + 5 * NS_PER_S
        assert b.peer.waits_until_ns(START_NS + 5 * NS_PER_S) is None
        b.initiate(START_NS + 1)
        b.peer.completed()
        assert b.peer.waits_until_ns(START_NS + 1) is None
        assert b.peer.pending_index is None
