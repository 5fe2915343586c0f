# SPDX-License-Identifier: Apache-2.0
"""What `make image` made, looked at without booting it: sizes, contents, lists, hashes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.image.artifacts import Artifacts
from tests.image.machine import qemu_img

QCOW2_MAX_BYTES: Final = 120 * 1000 * 1000
ISO_MAX_BYTES: Final = 200 * 1000 * 1000
# What builds programs, what installs packages at run time, and what only an image of somebody's own would have.
UNWANTED: Final = re.compile(
    r"/(usr/)?s?bin/(gcc|cc|clang|tcc|ld|as|make|cython|pip3?|gdb|strace)(-[\d.]+)?$"
    r"|/var/lib/apt/lists/.|/var/cache/apt/.|/usr/include/.|\.deb$|/__pycache__/.*\.pyo$"
)
SECRETS: Final = re.compile(
    r"/etc/jvpn/.*\.key$|ssh_host_\w+_key|/root/\.ssh/.|/etc/shadow-$|/random-seed$|\.key$|id_(rsa|ed25519)$"
)


@pytest.fixture(scope="module")
def listing(artifacts: Artifacts) -> list[str]:
    """Every path of the root file system."""
    done = subprocess.run(
        ["unsquashfs", "-l", "-d", "", str(artifacts.slot("root.squashfs"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("/")]


def content(artifacts: Artifacts, path: str) -> str:
    """One file of the root file system."""
    argv = ["unsquashfs", "-cat", str(artifacts.slot("root.squashfs")), path.lstrip("/")]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def test_sizes_are_within_their_bounds(artifacts: Artifacts) -> None:
    size_bytes = artifacts.qcow2.stat().st_size
    print(f"\nqcow2: {size_bytes / 1e6:.1f} MB (at most {QCOW2_MAX_BYTES / 1e6:.0f})")
    assert size_bytes <= QCOW2_MAX_BYTES


def test_the_size_of_the_iso_is_within_its_bound(artifacts: Artifacts) -> None:
    size_bytes = artifacts.iso.stat().st_size
    print(f"\nISO: {size_bytes / 1e6:.1f} MB (at most {ISO_MAX_BYTES / 1e6:.0f})")
    assert size_bytes <= ISO_MAX_BYTES


def test_every_output_has_its_hash(artifacts: Artifacts) -> None:
    lines = [line.split(maxsplit=1) for line in artifacts.one("SHA256SUMS").read_text().splitlines()]
    sums = {name.lstrip("*"): said for said, name in lines}
    made = [path for path in artifacts.folder.glob("jumping-vpn-*") if path.is_file()]
    assert made
    for path in made:
        assert sums[path.name] == digest(path), path.name


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_slot_is_what_its_manifest_says(artifacts: Artifacts) -> None:
    manifest = artifacts.manifest()
    for name, said in manifest["files"].items():
        path = artifacts.slot(name)
        assert (path.stat().st_size, digest(path)) == (said["bytes"], said["sha256"]), name
    config = artifacts.slot("slot.cfg").read_text()
    assert f"set roothash={manifest['roothash']}" in config
    assert f"set version={manifest['version']}" in config
    assert f"set serial={manifest['serial']}" in config


def test_nothing_in_it_builds_or_installs_programs(listing: list[str]) -> None:
    assert len(listing) > 1000
    assert [path for path in listing if UNWANTED.search(path)] == []


def test_there_is_no_secret_in_it(artifacts: Artifacts, listing: list[str]) -> None:
    assert [path for path in listing if SECRETS.search(path)] == []
    assert content(artifacts, "/etc/machine-id").strip() in ("", "uninitialized")
    words = [line.split(":")[1] for line in content(artifacts, "/etc/shadow").splitlines()]
    assert {word[:1] for word in words} <= {"*", "!"}, "an account has a password"


def test_the_package_list_and_the_sbom_name_the_same(artifacts: Artifacts) -> None:
    listed = [
        line.split() for line in artifacts.one("packages.txt").read_text().splitlines() if line[:1] != "#"
    ]
    assert len(listed) > 50
    # Ours was built a moment before and comes from no archive.
    assert [words[0] for words in listed if not re.fullmatch("[0-9a-f]{64}", words[2])] in (
        [],
        ["jumping-vpn"],
    )
    sbom = json.loads(artifacts.one("sbom.spdx.json").read_text())
    assert sbom["spdxVersion"].startswith("SPDX-2.")
    named = {
        (package["name"], package["versionInfo"]) for package in sbom["packages"] if "versionInfo" in package
    }
    assert {(words[0], words[1]) for words in listed} <= named
    assert "jumping-vpn" in {name for name, _ in named}


def test_it_says_what_it_is_and_when_it_was_made(artifacts: Artifacts) -> None:
    os_release = content(artifacts, "/usr/lib/os-release")
    version = artifacts.manifest()["version"]
    assert re.search(r'(?m)^IMAGE_ID="?jumping-vpn-appliance"?$', os_release)
    assert re.search(rf'(?m)^IMAGE_VERSION="?{re.escape(version)}"?$', os_release)
    # The build's time is the last commit's: the serial, and the time inside the squashfs, which a second build repeats.
    stats = subprocess.run(
        ["unsquashfs", "-stat", "-UTC", str(artifacts.slot("root.squashfs"))],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    ).stdout
    epoch = int(artifacts.manifest()["serial"])
    shown = subprocess.run(
        ["date", "-u", "-d", f"@{epoch}", "+%a %b %e %H:%M:%S %Y"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shown in stats


def test_the_update_key_inside_is_a_public_one(artifacts: Artifacts) -> None:
    lines = content(artifacts, "/usr/share/jumping-vpn/update.pub").splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", lines[0])


def test_every_form_of_the_disk_is_the_same_disk(artifacts: Artifacts) -> None:
    raw = artifacts.raw
    for pattern in ("jumping-vpn-*-amd64.qcow2", "jumping-vpn-*-amd64.vmdk"):
        other = artifacts.one(pattern)
        assert "Images are identical" in qemu_img("compare", "-f", "raw", str(raw), str(other))


def test_the_disk_has_the_partitions_that_updates_rely_on(artifacts: Artifacts) -> None:
    done = subprocess.run(["sfdisk", "-J", str(artifacts.raw)], capture_output=True, text=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    names = [partition["name"] for partition in table["partitions"]]
    assert names == ["bios", "esp", "root-a", "verity-a", "root-b", "verity-b", "data"]
