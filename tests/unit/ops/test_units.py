# SPDX-License-Identifier: Apache-2.0
"""The unit files as systemd's own tools judge them, and what they say against what the program does.

systemd itself does not run here; what a gateway does under these restrictions is in tests/e2e/test_confined.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.control import config

ROOT: Final = Path(__file__).resolve().parents[3]
UNITS: Final = ROOT / "gateway/ops/systemd"
GATEWAY: Final = UNITS / "jvpn-gateway.service"
CLIENT: Final = UNITS / "jvpn@.service"

ANALYZE: Final = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here: install systemd")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ANALYZE), "--no-pager", *words], capture_output=True, text=True, check=False)


def settings(unit: Path, key: str) -> list[str]:
    """Every value of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), [(GATEWAY, 20), (CLIENT, 30)], ids=["gateway", "client"])
def test_exposure(unit: Path, most: int) -> None:
    done = analyze("security", "--offline=true", f"--threshold={most}", str(unit))
    assert done.returncode == 0, done.stdout[-600:]
    stricter = analyze("security", "--offline=true", "--threshold=5", str(unit))
    assert stricter.returncode != 0  # the threshold is really looked at


@needs_systemd
@pytest.mark.parametrize("name", ["jvpn-gateway.service", "jvpn@office.service"])
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    source = UNITS / re.sub(r"@\w+", "@", name)
    unit = tmp_path / name
    # Where there is no /usr/bin/jvpn another program stands for it: verify looks whether it can be run.
    unit.write_text(source.read_text().replace("/usr/bin/jvpn", sys.executable))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", "--man=no", str(unit)).stderr


def test_a_file_that_is_wrong_is_not_started_again_and_again() -> None:
    """Exit code 2 is a configuration that is refused."""
    for unit in (GATEWAY, CLIENT):
        assert settings(unit, "RestartPreventExitStatus") == ["2"]


def test_the_watchdog_leaves_time_to_be_sure_of_a_stall() -> None:
    from gateway.control.watch import STALL_NS

    for unit in (GATEWAY, CLIENT):
        (watchdog_s,) = settings(unit, "WatchdogSec")
        assert int(watchdog_s) >= 3 * STALL_NS / 1e9


def test_the_gateway_has_no_more_than_two_capabilities() -> None:
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert settings(GATEWAY, key) == ["CAP_NET_ADMIN CAP_NET_BIND_SERVICE"]
    assert settings(GATEWAY, "RuntimeDirectory") == ["jvpn wireguard"]


def test_no_package_makes_a_machine_a_router() -> None:
    lines = (UNITS / "jvpn.sysctl.conf").read_text().splitlines()
    assert not [line for line in lines if "forward" in line and not line.startswith("#")]


def test_the_example_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.control import keysfile

    keysfile.write_key_file(tmp_path / "gateway.key", bytes(range(32)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    example = tmp_path / "gateway.toml"
    shutil.copyfile(UNITS / "examples/gateway.toml", example)
    loaded = config.load_gateway(example)
    assert loaded.nat_enabled and not loaded.warnings
    credential, _, path = settings(GATEWAY, "LoadCredential")[0].partition(":")
    assert f"credential:{credential}" in example.read_text() and path == "/etc/jvpn/gateway.key"
