# SPDX-License-Identifier: Apache-2.0
"""`make deb` and `make install`: what is installed runs by itself, without this tree and its virtual environment.

server (the gateway of the unpacked package)                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from gateway import __version__
from tests.net.lab import REPO, Lab, Namespace, missing_requirements
from tests.net.package import built, unpack

MISSING: Final = missing_requirements(("ip", "nft", "dpkg-deb", "objdump", "strip"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

UNITS: Final = {"jvpn-gateway.service", "jvpn@.service"}


@pytest.fixture(scope="module")
def usr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked."""
    return unpack(tmp_path_factory.mktemp("package") / "root")


@pytest.fixture(scope="module")
def server(lab: Lab) -> Namespace:
    return lab.namespace("server")


def run(server: Namespace, usr: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed jvpn, with an environment that would mislead a less careful program."""
    return server.run([str(usr / "bin/jvpn"), *words], env=environment(folder), check=False)


def environment(folder: Path) -> dict[str, str]:
    return {
        "JVPN_STATE_DIR": str(folder / "s"),
        "JVPN_RUNTIME_DIR": str(folder / "r"),
        "PYTHONPATH": str(REPO),
        "PYTHONHOME": "/nowhere",
    }


def test_commands_of_the_unpacked_package(server: Namespace, usr: Path, tmp_path: Path) -> None:
    assert run(server, usr, tmp_path, "--version").stdout == f"jvpn {__version__}\n"
    done = run(server, usr, tmp_path, "doctor", "--json")
    document = json.loads(done.stdout)
    assert document["ok"], [check for check in document["checks"] if check["status"] == "fail"]
    (sodium,) = (check["detail"] for check in document["checks"] if check["name"] == "libsodium")
    assert str(usr.resolve() / "lib/jumping-vpn/gateway/_lib/libsodium.so.26") in sodium
    by_wg_quick = server.run([str(usr / "bin/jvpn-wg"), "--help"], env=environment(tmp_path))
    assert by_wg_quick.stdout.startswith("Usage: jvpn wg [OPTIONS] INTERFACE")


def test_a_gateway_of_the_unpacked_package(lab: Lab, server: Namespace, usr: Path) -> None:
    folder = lab.tmp / "p"
    folder.mkdir()
    proc = server.spawn([str(usr / "bin/jvpn"), "gateway"], "packaged", environment(folder))
    proc.wait_line('"event": "gateway ready"')
    mapped = Path(f"/proc/{proc.pid}/maps").read_text()
    ours = {Path(name) for name in re.findall(r"(/\S+\.so[.\d]*)$", mapped, re.MULTILINE)}
    assert not [path for path in ours if REPO in path.parents]
    assert len([path for path in ours if path.name.startswith("libsodium")]) == 1
    assert json.loads(run(server, usr, folder, "status", "--json").stdout)["role"] == "gateway"
    assert proc.stop() == 0


def test_what_the_package_holds(usr: Path) -> None:
    root = usr.parent
    assert {path.name for path in (root / "lib/systemd/system").iterdir()} == UNITS
    assert "/usr/bin/jvpn gateway" in (root / "lib/systemd/system/jvpn-gateway.service").read_text()
    held = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert held >= {
        "usr/bin/jvpn",
        "usr/bin/jvpn-wg",
        "usr/lib/sysctl.d/50-jvpn.conf",
        "usr/lib/tmpfiles.d/jvpn.conf",
        "usr/share/bash-completion/completions/jvpn",
        "usr/share/doc/jumping-vpn/copyright",
        "usr/share/jumping-vpn/grafana/jvpn.json",
        "usr/share/jumping-vpn/prometheus/jvpn.rules.yml",
        "usr/share/doc/jumping-vpn/examples/gateway.toml",
    }
    pages = {
        f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in (REPO / "docs/man").glob("*.[1-9]")
    }
    assert pages <= held
    listing = subprocess.run(
        ["dpkg-deb", "-c", str(built())], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"__pycache__|\.key$|\.pyx$", listing, re.MULTILINE)
    assert all(line.split()[1] == "root/root" for line in listing.splitlines())
    named = re.findall(r"/usr/lib/\S+LICENSE\S*", (usr / "share/doc/jumping-vpn/copyright").read_text())
    assert len(named) == 2 and all((root / name[1:]).exists() for name in named)
    # Whoever installs it gets every licence that the libraries ask to be passed on.
    folders = list((usr / "lib/jumping-vpn").glob("*.dist-info"))
    assert len(folders) == len(
        re.findall(r"^[a-z].*==", (REPO / "requirements.lock").read_text(), re.MULTILINE)
    )
    for folder in folders:
        assert [path for path in folder.rglob("*") if re.match(r"(?i)(licen[cs]e|copying)", path.name)], (
            folder
        )


def test_the_same_tree_gives_the_same_package() -> None:
    first = hashlib.sha256(built().read_bytes()).hexdigest()
    subprocess.run([".ci/package"], cwd=REPO, check=True, capture_output=True)
    assert hashlib.sha256(built().read_bytes()).hexdigest() == first


@pytest.mark.skipif(shutil.which("lintian") is None, reason="no lintian here")
def test_lintian_finds_nothing() -> None:
    command = ["lintian", "--allow-root", "--fail-on", "warning", str(built())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_scripts_of_the_package_are_sound(tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-e", str(built()), str(tmp_path / "control")], check=True)
    for name in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", str(tmp_path / "control" / name)], check=True)
        text = (tmp_path / "control" / name).read_text()
        assert "keys gen" not in text and "enable" not in text.replace("nothing is enabled", "")


def test_install_and_uninstall_leave_what_was_there(tmp_path: Path) -> None:
    other = tmp_path / "opt/vpn/bin/other"
    other.parent.mkdir(parents=True)
    other.write_text("not ours")
    env = {**os.environ, "PREFIX": "/opt/vpn", "DESTDIR": str(tmp_path)}
    install = [str(REPO / ".venv/bin/python"), ".ci/install"]
    for _ in range(2):  # also over itself
        subprocess.run(install, cwd=REPO, env=env, check=True, capture_output=True)
    jvpn = tmp_path / "opt/vpn/bin/jvpn"
    said = subprocess.run([jvpn, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"jvpn {__version__}\n"
    assert "/opt/vpn/bin/jvpn" in (tmp_path / "opt/vpn/lib/systemd/system/jvpn@.service").read_text()
    assert list((tmp_path / "opt/vpn/lib/jumping-vpn/gateway/__pycache__").iterdir())
    uninstall = ["python3", ".ci/install", "--uninstall"]
    subprocess.run(uninstall, cwd=REPO, env=env, check=True, capture_output=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]
    again = subprocess.run(uninstall, cwd=REPO, env=env, check=False, capture_output=True, text=True)
    assert again.returncode == 1 and "nothing is installed" in again.stderr


IN_A_COPY: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1"/up "$1"/work "$1"/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root" || exit 77
mount -t proc proc "$1/root/proc"
cp "$2" "$1/root/package.deb"
cd /
exec chroot "$1/root" sh -ec '
    dpkg -i /package.deb
    jvpn --version
    systemd-analyze verify jvpn-gateway.service
    ls /usr/lib/jumping-vpn/gateway/__pycache__/__init__.*.pyc >&2
    echo BEGIN
    find /etc/jvpn /etc/systemd/system -name "*jvpn*" -o -path "/etc/jvpn/*"
    echo END
    dpkg -P jumping-vpn
    ! ls -d /usr/lib/jumping-vpn'
"""


def test_dpkg_installs_and_purges_it_on_this_system(tmp_path: Path) -> None:
    """On a copy of this machine's files that is gone afterwards: nothing is enabled, no key is made, all of it goes."""
    assert shutil.which("unshare")
    command = ["unshare", "--mount", "bash", "-c", IN_A_COPY, "copy", str(tmp_path), str(built())]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=plain())
    if done.returncode == 77:
        pytest.skip("no overlay file system here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"jvpn {__version__}\n" in done.stdout
    assert "BEGIN\n/etc/jvpn\nEND\n" in done.stdout


def plain() -> dict[str, str]:
    """dpkg in its own words."""
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", "DPKG_COLORS": "never"}
