# SPDX-License-Identifier: Apache-2.0
"""One libsodium per process: pysodium and the C side use the same file, ours, though Debian's is installed too.

Checked from the tree and from a wheel installed into an environment that sees nothing else of the project. Each case
is a fresh process, and /proc/self/maps has the last word.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "gateway" / "_lib" / "libsodium.so.26"

# Run in a fresh interpreter; argv[1] says which side loads its library first.
PROBE = """
import json, sys
if sys.argv[1] == "c":
    from gateway.dataplane import aead
    from gateway import _sodium, crypto
else:
    from gateway import _sodium, crypto
    from gateway.dataplane import aead
import gateway
crypto.require_one_sodium(aead.sodium_path())
maps = open("/proc/self/maps").read().split("\\n")
mapped = sorted({line.split()[-1] for line in maps if "libsodium" in line or "libjv" in line})
print(json.dumps([_sodium.pysodium.sodium._name, aead.sodium_path(), mapped, gateway.__file__,
                  crypto.sodium_features().version]))
"""

needs_bundled = pytest.mark.skipif(
    not BUNDLED.exists(),
    reason="built against the system's libsodium (JVPN_SODIUM=system, or no source to fetch)",
)
needs_debian = pytest.mark.skipif(
    ctypes.util.find_library("sodium") is None,
    reason="the system has no libsodium of its own (Debian: libsodium23)",
)


class Seen(NamedTuple):
    """What the probe saw in its process."""

    pysodium_name: str
    c_side: str
    mapped: list[str]
    package: str
    version: str


def probe(python: Path, first: str, cwd: Path) -> Seen:
    # -I: neither the working directory nor PYTHONPATH nor the user's site can bring the tree back.
    done = subprocess.run(
        [python, "-I", "-c", PROBE, first],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": "/usr/lib"},
    )
    assert done.returncode == 0, done.stderr
    return Seen(*json.loads(done.stdout))


def assert_one_library(seen: Seen, package: Path) -> None:
    library = str(package / "_lib" / "libsodium.so.26")
    assert Path(seen.package).parent == package
    assert os.path.realpath(seen.pysodium_name) == os.path.realpath(seen.c_side) == library
    assert seen.mapped == [str(package / "_lib" / "libjv.so"), library]
    assert seen.version == "1.0.20"


@pytest.mark.parametrize("first", ["python", "c"])
def test_both_sides_share_whichever_library_it_is(first: str, tmp_path: Path) -> None:
    seen = probe(Path(sys.executable), first, tmp_path)
    assert os.path.realpath(seen.pysodium_name) == os.path.realpath(seen.c_side)
    assert sum("libsodium" in path for path in seen.mapped) == 1


# pysodium alone, without _lib: the loader must find the system's though ldconfig, gcc and the PATH are gone.
WITHOUT_OURS = """
import sys
sys.path.insert(0, sys.argv[1])
from gateway import crypto
features = crypto.sodium_features()
assert not features.path.startswith(sys.argv[1])
print(features.version, features.aegis128l, len(crypto.x25519_public(bytes(range(32)))))
"""


@needs_debian
def test_without_ours_the_system_library_serves(tmp_path: Path) -> None:
    package = tmp_path / "gateway"
    package.mkdir()
    for name in ("__init__.py", "_sodium.py", "crypto.py", "errors.py", "constants.py"):
        shutil.copy(ROOT / "gateway" / name, package / name)
    command = [sys.executable, "-I", "-c", WITHOUT_OURS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    version, aegis, size = done.stdout.split()
    old = tuple(int(part) for part in version.split(".")) < (1, 0, 19)
    assert (aegis, size) == (str(not old), "32")


@needs_bundled
@needs_debian
@pytest.mark.parametrize("first", ["python", "c"])
def test_from_the_tree(first: str, tmp_path: Path) -> None:
    assert_one_library(probe(Path(sys.executable), first, tmp_path), ROOT / "gateway")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel `pip install .` would install, built with what is installed here."""
    into = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(into), str(ROOT)]
    with (ROOT / "build" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(into.glob("jumping_vpn-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and pysodium in it, and nothing else."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    python = home / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    shutil.copytree(Path(sysconfig.get_path("purelib")) / "pysodium", site / "pysodium")
    return home


@needs_bundled
@needs_debian
@pytest.mark.parametrize("first", ["python", "c"])
def test_from_an_installed_wheel(first: str, installed: Path, tmp_path: Path) -> None:
    python = installed / "bin" / "python"
    package = next(installed.glob("lib/python3*/site-packages/gateway"))
    assert_one_library(probe(python, first, tmp_path), package)


@needs_bundled
def test_what_the_wheel_holds(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"gateway/_lib/libsodium.so.26", "gateway/_lib/libjv.so", "gateway/_lib/LICENSE.libsodium"} <= set(
        names
    )
    modules = {path.stem for path in ROOT.glob("gateway/dataplane/*.pyx")}
    assert modules
    assert {
        name.split("/")[2].split(".")[0]
        for name in names
        if name.startswith("gateway/dataplane/") and name.endswith(".so")
    } == modules
    foreign = [name for name in names if not name.startswith(("gateway/", "jumping_vpn-"))]
    sources = [name for name in names if name.endswith((".pyx", ".c", ".h"))]
    assert not foreign
    assert not sources


@needs_bundled
def test_the_wheel_has_the_entry_point(installed: Path) -> None:
    assert "gateway.ops.cli.main" in (installed / "bin" / "jvpn").read_text()
