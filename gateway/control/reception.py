# SPDX-License-Identifier: Apache-2.0
"""The gateway's reception: which session a completed handshake and the first message under it mean (protocol.md §2).

Rule 1: a handshake of a peer that has a live session is a rekey of it until its first message says otherwise.
Rule 2: what takes a session from somebody costs a token of the peer: two devices with one key cannot fight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from gateway import frames as fr
from gateway import suites
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control.configfields import Network
from gateway.control.peers import Birth, Peer
from gateway.control.sessions import Live, Sessions, address_name
from gateway.control.snapshot import snapshot_of, with_interval
from gateway.core import inputs as inp
from gateway.core import rates
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.core.states import Role, State
from gateway.core.stock import IMPLICIT_PATH_ID
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.errors import NotFound
from gateway.noise.handshake import TransportKeys

# A key that a stock client took over says nothing for this long (protocol.md §2).
TAKEOVER_NS: Final = 8 * NS_PER_S
_ALONE: Final = {suite: (suite,) for suite in suites.Suite}


class Reception:
    """Gateway side. One object for all peers; what is remembered of a peer lies in its `births`."""

    def __init__(self, engine: Engine, sessions: Sessions, policy_of: Callable[[Peer], Policy]) -> None:
        self._engine = engine
        self._sessions = sessions
        self._policy_of = policy_of
        # Further ways to this gateway, told to every client.
        self.endpoints: tuple[fr.Endpoint, ...] = ()
        # A peer has said HELLO; the owner remembers it.
        self.on_spoken: Callable[[Peer], None] = lambda peer: None

    # --- handshakes -------------------------------------------------------------------------------------------

    def answered(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """Our response has left (T0 when the peer has no live session)."""
        birth = peer.remember(keys, source)
        live = self._sessions.of(peer.slot)
        if live is not None and live.core.state is State.BIRTH:
            self._sessions.feed(now_ns, live, inp.BirthFailed())
            live = None
        if live is None:
            self._create(now_ns, peer, birth)

    def initiated(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """The peer answered our own initiation: for a stock session that is its reattachment."""
        birth = peer.remember(keys, source)
        live = self._sessions.of(peer.slot)
        if live is None:
            live = self._create(now_ns, peer, birth)
            self._sessions.feed(now_ns, live, inp.Confirmed(address_name(source)))
            self._expect_hello(now_ns, peer, birth)
        elif live.core.stock:
            self._renewed(now_ns, live, birth, source)

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: Endpoint) -> None:
        """The first authenticated message under a keypair of ours."""
        birth = peer.birth(index)
        live = self._sessions.of(peer.slot)
        if birth is None:
            return
        if live is None:
            live = self._create(now_ns, peer, birth)
        if live.core.session_id == birth.session_id and live.core.state is State.BIRTH:
            self._sessions.feed(now_ns, live, inp.Confirmed(live.name(source)))
            self._expect_hello(now_ns, peer, birth)
        elif live.core.stock:
            self._renewed(now_ns, live, birth, source)
        elif live.core.session_id != birth.session_id:
            birth.hello_by_ns = now_ns + TAKEOVER_NS

    def _renewed(self, now_ns: int, live: Live, birth: Birth, source: Endpoint) -> None:
        live.successor_index = birth.index
        self._sessions.feed(now_ns, live, inp.StockHandshake(live.name(source)))

    def succeed(self, now_ns: int, live: Live) -> None:
        """A stock session has reached its lifetime; if its peer has answered in time, the next one begins at once."""
        kept = self._sessions.successor(live)
        birth = live.peer.birth(kept) if kept else None
        if birth is not None:
            fresh = self._create(now_ns, live.peer, birth)
            self._sessions.feed(now_ns, fresh, inp.Confirmed(fresh.name(birth.source)))

    def _create(self, now_ns: int, peer: Peer, birth: Birth) -> Live:
        """A session is a stock one until a HELLO says otherwise, unless the peer must speak jump frames."""
        stock = peer.config.protocol != "jump"
        first = First(IMPLICIT_PATH_ID, address_name(birth.source))
        return self._sessions.create(
            now_ns,
            peer,
            Role.GATEWAY,
            birth.session_id,
            self._policy_of(peer),
            first,
            birth.source,
            stock=stock,
        )

    @staticmethod
    def _expect_hello(now_ns: int, peer: Peer, birth: Birth) -> None:
        """A session of its own needs no HELLO, unless its peer has said one before or must."""
        protocol = peer.config.protocol
        if protocol == "jump" or (protocol == "auto" and peer.spoken):
            birth.hello_by_ns = now_ns + TAKEOVER_NS

    def takeover_due(self, now_ns: int, peer: Peer) -> None:
        """No HELLO for 8 s: under the new keypair of a jump session a stock client has this key now."""
        for birth in peer.births:
            live = self._sessions.of(peer.slot)
            if not birth.hello_by_ns or birth.hello_by_ns > now_ns or live is None or live.peer is not peer:
                continue
            birth.hello_by_ns = 0
            required = peer.config.protocol == "jump"
            if live.core.session_id == birth.session_id:
                self._sessions.feed(now_ns, live, inp.PlainWireguard(peer.spoken, required))
            elif not required and self._may_displace(now_ns, peer):
                fresh = self._supersede(now_ns, peer, live, birth)
                self._sessions.feed(now_ns, fresh, inp.PlainWireguard(peer.spoken))

    @staticmethod
    def _may_displace(now_ns: int, peer: Peer) -> bool:
        if peer.takeovers is None:
            peer.takeovers = rates.takeovers()
        return peer.takeovers.take(now_ns)

    def _supersede(self, now_ns: int, peer: Peer, live: Live, birth: Birth) -> Live:
        """The old session ends, this keypair carries the new one: T18, T0, T1."""
        live.keep_index = birth.index
        self._sessions.feed(now_ns, live, inp.Superseded())
        fresh = self._create(now_ns, peer, birth)
        self._sessions.feed(now_ns, fresh, inp.Confirmed(fresh.name(birth.source)))
        return fresh

    # --- HELLO ------------------------------------------------------------------------------------------------

    def hello(self, now_ns: int, peer: Peer, event: Event, hello: fr.Hello) -> None:
        """The table of protocol.md §2: rekey, resume, supersede, or refuse."""
        birth = peer.birth(event.local_index)
        if birth is None or peer.config.protocol == "wireguard":
            return
        birth.hello_by_ns = 0
        live = self._sessions.of(peer.slot)
        if live is None or live.core.state is State.BIRTH:
            self._refuse(now_ns, peer, event, hello, fr.RefuseReason.SESSION_NOT_FOUND)
        elif self._means(live, birth, hello):
            self._welcome_to(now_ns, live, birth, event, hello)
        elif hello.session_id != fr.NO_SESSION:
            self._refuse(now_ns, peer, event, hello, fr.RefuseReason.SESSION_NOT_FOUND)
        elif self._may_displace(now_ns, peer):
            fresh = self._supersede(now_ns, peer, live, birth)
            self._welcome_to(now_ns, fresh, birth, event, hello)
        else:
            self._refuse(now_ns, peer, event, hello, fr.RefuseReason.RATE_LIMITED)

    @staticmethod
    def _means(live: Live, birth: Birth, hello: fr.Hello) -> bool:
        """Whether the HELLO is for the live session: by its id, or by the handshake that made it."""
        made = live.core.session_id == birth.session_id
        return hello.session_id == live.core.session_id or (made and hello.session_id == fr.NO_SESSION)

    def _welcome_to(self, now_ns: int, live: Live, birth: Birth, event: Event, hello: fr.Hello) -> None:
        if live.instance not in (b"", hello.instance_id):
            if not self._may_displace(now_ns, live.peer):
                self._refuse(now_ns, live.peer, event, hello, fr.RefuseReason.RATE_LIMITED)
                return
            self._displace(now_ns, live, birth)
        if not self._agree(live, birth, hello):
            self._sessions.feed(now_ns, live, inp.SuiteRefused())
            self._refuse(now_ns, live.peer, event, hello, fr.RefuseReason.POLICY_DENIED)
            return
        try:
            self._engine.promote(live.slot, birth.index, now_ns)
        except NotFound:
            return  # later handshakes have taken its place while it waited: the client greets under those
        live.instance = hello.instance_id
        self.on_spoken(live.peer)
        if live.peer.config.protocol == "jump":
            self._engine.mute(live.slot, False, now_ns)
        if birth.session_id != live.core.session_id:
            self._sessions.feed(now_ns, live, inp.KeyInstalled())
        fresh = not live.has_paths
        if fresh:
            self._agree_profile(now_ns, live, hello)
            self._sessions.open_paths(now_ns, live)
        address = live.name(event.source)
        live.peer.greeted(birth)
        birth.source = live.at(address) or birth.source  # one object for the same address
        self._sessions.feed(now_ns, live, inp.HelloSeen(hello.path_id, address, hello.binding_epoch))
        if fresh:
            self._sessions.bind_again(now_ns, live)
            self._sessions.on_persist(now_ns, live)  # a jump session from now on, also after a restart
        self._send(now_ns, live.peer, event, self._welcome(live, event.source))

    def _agree_profile(self, now_ns: int, live: Live, hello: fr.Hello) -> None:
        """Both ends use the larger interval that is asked for (session.md §4), if our policy may go that slowly."""
        live.asked_interval_ns = hello.liveness_interval_ms * NS_PER_MS
        self.follow_policy(now_ns, live)

    def follow_policy(self, now_ns: int, live: Live) -> None:
        """What the configuration says by now, for a session that began under something else."""
        policy = with_interval(self._policy_of(live.peer), live.asked_interval_ns)
        if policy is not live.core.policy and policy != live.core.policy:
            self._sessions.change_policy(now_ns, live, policy)

    def _agree(self, live: Live, birth: Birth, hello: fr.Hello) -> bool:
        """The first suite offered that the policy permits and this keypair has; a HELLO repeated finds the same."""
        suite = suites.choose(hello.suites, birth.offers)
        if suite is None:
            return False
        with suppress(NotFound):  # a keypair that is gone has nobody to agree with
            self._engine.choose_suite(live.slot, birth.index, suite)
        birth.offers, live.suite = _ALONE[suite], suite
        return True

    def _displace(self, now_ns: int, live: Live, birth: Birth) -> None:
        """Another process of the same client goes on with the session: the one before is told, then forgotten."""
        refusal = fr.Refuse(
            instance_id=live.instance, reason=fr.RefuseReason.INSTANCE_CONFLICT, retry_after_ms=0
        )
        self._engine.send_data(live.slot, 0, None, fr.encode((refusal,)), now_ns)
        self._engine.erase_keys(live.slot, birth.index)
        live.has_paths = False

    def _welcome(self, live: Live, source: Endpoint) -> fr.Welcome:
        core = live.core
        return fr.Welcome(
            session_id=core.session_id,
            binding_epoch=core.epoch,
            bound_path_id=core.bound_id,
            state_version=core.version,
            last_attempt_id=core.attempt_id,
            suite=live.suite,
            policy=snapshot_of(core.policy),
            inner_addresses=inner_addresses(live.peer.config.allowed_ips),
            endpoints=self.endpoints,
            observed=fr.Endpoint(ip=ip_address(source.ip), port=source.port),
        )

    def _refuse(self, now_ns: int, peer: Peer, event: Event, hello: fr.Hello, why: fr.RefuseReason) -> None:
        limited = why is fr.RefuseReason.RATE_LIMITED and peer.takeovers is not None
        retry_ns = peer.takeovers.retry_after_ns(now_ns) if limited and peer.takeovers else 0
        retry_ms = -(-retry_ns // NS_PER_MS)
        refusal = fr.Refuse(instance_id=hello.instance_id, reason=why, retry_after_ms=retry_ms)
        self._send(now_ns, peer, event, refusal)

    def _send(self, now_ns: int, peer: Peer, event: Event, frame: fr.Frame) -> None:
        """Under the keypair the HELLO came under, to where it came from: the handshake confirmed that address."""
        plaintext = fr.encode((frame,))
        self._engine.send_data(peer.slot, event.local_index, event.source, plaintext, now_ns)

    # --- control frames ---------------------------------------------------------------------------------------

    def frame(self, now_ns: int, live: Live, event: Event, frame: fr.Frame) -> None:
        """One control frame of a jump session, in the order of the message."""
        address = live.name(event.source)
        if isinstance(frame, fr.ReattachRequest):
            self._request(now_ns, live, frame, address)
        elif isinstance(frame, fr.Response):
            self._response(now_ns, live, frame)
        elif isinstance(frame, fr.PathClose):
            self._sessions.feed(now_ns, live, inp.PathRemoved(frame.path_id))
        elif isinstance(frame, fr.Terminate):
            self._sessions.feed(now_ns, live, inp.PeerTerminated())
        elif isinstance(frame, fr.Ping):
            self._sessions.answer_ping(now_ns, live, address, frame)
        elif isinstance(frame, fr.Pong):
            self._sessions.on_pong(now_ns, live, frame.token)

    def _request(self, now_ns: int, live: Live, asked: fr.ReattachRequest, address: str) -> None:
        request = inp.ReattachRequest(
            asked.attempt_id,
            asked.binding_epoch,
            asked.path_id,
            reason_of(asked.reason),
            asked.forced,
            address,
        )
        self._sessions.feed(now_ns, live, request)

    def _response(self, now_ns: int, live: Live, answer: fr.Response) -> None:
        """It validates the address its challenge was sent to, once, from whatever address it arrives."""
        challenge = live.answered(answer.nonce)
        if challenge is None:
            return
        address, _, sent_ns = challenge
        answered = inp.ChallengeAnswered(address, answer.path_id, now_ns - sent_ns)
        self._sessions.feed(now_ns, live, answered)


def inner_addresses(allowed_ips: Iterable[Network]) -> tuple[fr.InnerAddress, ...]:
    """The peer's own addresses. A wider prefix is a network behind it, and WELCOME has room for eight."""
    hosts = [net for net in allowed_ips if net.prefixlen == net.max_prefixlen][: fr.INNER_ADDRESSES_MAX]
    return tuple(fr.InnerAddress(ip=net.network_address, prefix_bits=net.prefixlen) for net in hosts)


def reason_of(number: int) -> Reason:
    """A reason of the wire; one we do not know says nothing."""
    try:
        return Reason(number)
    except ValueError:
        return Reason.NONE
