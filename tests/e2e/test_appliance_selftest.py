# SPDX-License-Identifier: Apache-2.0
"""The self-test that confirms a slot, against a gateway of ours: it passes where packets pass, and only there.

server (jvpn gateway, self-test beside it)                                    drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import pytest

from gateway.control import ctlclient
from tests.net.jvpn import JvpnGateway
from tests.net.lab import Lab, LabError, missing_requirements
from tests.net.tunnel import Site
from tests.net.wg import Keys

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

SCRIPT: Final = """\
import secrets, sys, time
from pathlib import Path
from appliance.update.selftest import World, passes_traffic
from gateway.errors import JumpError
try:
    print(passes_traffic(Path(sys.argv[1]), World(time.time_ns, secrets.token_bytes, timeout_s=0.5)))
except JumpError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def gateway(lab: Lab, site: Site) -> Iterator[JvpnGateway]:
    made = JvpnGateway(lab, site.server, Keys.generate(), ["10.8.0.1/24", "fd08::1/64"])
    made.start()
    yield made
    with suppress(LabError):  # a test may have ended it
        made.kill()


def self_test(gateway: JvpnGateway) -> tuple[int, str]:
    """Run it in the gateway's namespace: exit status and what it said."""
    argv = [sys.executable, "-c", SCRIPT, str(gateway.runtime_dir)]
    done = gateway.namespace.run(argv, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def names(gateway: JvpnGateway) -> list[str]:
    return [peer["name"] for peer in ctlclient.call(gateway.control_socket, "peer.list")["peers"]]


def test_it_passes_again_and_again_and_leaves_nothing(gateway: JvpnGateway) -> None:
    for _ in range(2):
        status, said = self_test(gateway)
        assert (status, said) == (0, "a packet went through jv0 and came back (10.8.0.1)")
        assert names(gateway) == []


def test_a_peer_that_a_power_cut_left_behind_goes(gateway: JvpnGateway) -> None:
    request = {"name": "appliance-selftest", "public_key": Keys.generate().public}
    ctlclient.call(gateway.control_socket, "peer.add", request)
    assert self_test(gateway)[0] == 0
    assert names(gateway) == []


def test_a_device_that_is_down_fails_it(gateway: JvpnGateway) -> None:
    """The handshake still completes: only the packet tells."""
    gateway.namespace.ip("link", "set", gateway.interface, "down")
    status, said = self_test(gateway)
    assert status == 1
    assert "no packet came back" in said or "no address" in said
    assert names(gateway) == []


def test_a_gateway_that_is_gone_fails_it(gateway: JvpnGateway) -> None:
    gateway.kill()
    status, said = self_test(gateway)
    assert status == 1
    assert "no daemon answers" in said


def test_a_machine_without_a_gateway_fails_it(gateway: JvpnGateway) -> None:
    gateway.stop()
    gateway.runtime_dir.mkdir(exist_ok=True)
    status, said = self_test(gateway)
    assert status == 1
    assert "no control socket" in said
