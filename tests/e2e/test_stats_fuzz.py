# SPDX-License-Identifier: Apache-2.0
"""schemathesis against a running gateway: whatever is made of its OpenAPI document, no answer is its own fault.

client ─── router ─── server (jvpn gateway) ─── backend                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.net.jvpn import JvpnGateway
from tests.net.lab import missing_requirements
from tests.net.tunnel import Options, Site, Tunnel

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft", "curl"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

SCHEMATHESIS: Final = Path(sys.executable).parent / "schemathesis"
URL: Final = "http://127.0.0.1:51821"
TOKEN: Final = secrets.token_hex(32)
# Whether a valid request is granted depends on the gateway's sessions and peers.
NOT_JUDGED: Final = "positive_data_acceptance"
ENDLESS: Final = "/api/v1/events"
READS: Final = ("--include-method", "GET", "--exclude-path", ENDLESS, "--max-examples", "10")
# Below the gateway's own limit: above it everything would be answered 429.
ACTS: Final = ("--exclude-method", "GET", "--rate-limit", "9/s", "--max-examples", "4")


@pytest.fixture(scope="module")
def gateway(site: Site) -> Iterator[JvpnGateway]:
    settings = {"token_file": "reader", "operator_token_file": "operators", "open_health": True}
    tunnel = Tunnel(site, "jvpn", "jvpn", Options(server_tables={"stats": settings}))
    assert isinstance(tunnel.server, JvpnGateway)
    for name, text in (("reader", secrets.token_hex(32)), ("operators", f"fuzzer {TOKEN}")):
        file = tunnel.server.folder / name
        file.touch(mode=0o600)
        file.write_text(text)
    tunnel.start()
    yield tunnel.server
    tunnel.client.stop()
    tunnel.server.stop()


def fuzz(gateway: JvpnGateway, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it on the gateway's machine. Sessions and peers that exist are asked for too."""
    settings = folder / "schemathesis.toml"
    settings.write_text(
        '[parameters]\n"path.id" = ["client", "ffff", "c"]\n"path.name" = ["client", "nobody"]\n'
    )
    # It keeps what it found in the folder where it runs.
    argv = [
        "env",
        "-C",
        str(folder),
        str(SCHEMATHESIS),
        "--config-file",
        str(settings),
        "run",
        f"{URL}/openapi.json",
    ]
    always = ("--exclude-checks", NOT_JUDGED, "--phases", "coverage,fuzzing", "--seed", "1", "--no-color")
    header = ("-H", f"Authorization: Bearer {TOKEN}", "--generation-database", "none")
    return gateway.namespace.run([*argv, *always, *header, *words], check=False, timeout_s=150)


def curl(gateway: JvpnGateway, path: str, *words: str) -> Any:
    return json.loads(gateway.namespace.run(["curl", "-sS", "--fail", *words, URL + path]).stdout)


def test_reading_has_no_fault(gateway: JvpnGateway, tmp_path: Path) -> None:
    done = fuzz(gateway, tmp_path, *READS)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_acting_has_no_fault(gateway: JvpnGateway, tmp_path: Path) -> None:
    done = fuzz(gateway, tmp_path, *ACTS)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    # Something of it was really done, and the gateway is as well as before.
    exported = gateway.cli("audit", "export", "--state-dir", str(gateway.state_dir))
    acts = [one for one in map(json.loads, exported.splitlines()) if one["event"] == "OPERATOR_ACTION"]
    assert {one["by"] for one in acts} == {"token:fuzzer"}
    assert ("drain", "done") in {(one["action"], one["outcome"]) for one in acts}
    assert curl(gateway, "/livez")["live"] is True
    assert "stats request failed" not in gateway.proc.output
    assert TOKEN not in done.stdout and TOKEN not in gateway.proc.output
