# SPDX-License-Identifier: Apache-2.0
"""What the build does to the tree of the root file system, and what the initramfs does in it: on small trees."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.image import plan, rootfs

SCRIPT = plan.FILES / "initramfs/scripts/appliance"
HOOK = plan.FILES / "initramfs/hooks/appliance"
EPOCH = 1_700_000_000


def inputs(work: Path) -> rootfs.Inputs:
    return rootfs.Inputs(plan.CLOUD, work, work / "our.deb", "key\n", EPOCH, "1.2.3")


def test_the_overlay_keeps_links_and_the_bit_for_execution_and_nothing_else_of_modes(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "etc/x.d").mkdir(parents=True)
    (source / "etc/x.d/a.conf").write_text("new")
    (source / "etc/x.d/run").write_text("#!/bin/sh\n")
    (source / "etc/x.d/a.conf").chmod(0o600)
    (source / "etc/x.d/run").chmod(0o711)
    (source / "etc/link").symlink_to("/run/nowhere")
    (root / "etc/x.d").mkdir(parents=True)
    (root / "etc/x.d/a.conf").symlink_to("/dev/null")
    (root / "etc/link").write_text("a file before")
    rootfs.overlay(root, source)
    assert (root / "etc/x.d/a.conf").read_text() == "new" and not (root / "etc/x.d/a.conf").is_symlink()
    modes = {name: (root / "etc/x.d" / name).stat().st_mode & 0o7777 for name in ("a.conf", "run")}
    assert modes == {"a.conf": 0o644, "run": 0o755}
    assert (root / "etc/link").readlink() == Path("/run/nowhere")


def debian(root: Path) -> Path:
    """A tree with what must not be left in an image."""
    for name in (
        *(
            "usr/lib/os-release",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/sshd_config",
            "etc/shadow-",
            "etc/shadow",
        ),
        *(
            "var/cache/apt/pkgcache.bin",
            "var/log/dpkg.log",
            "var/lib/apt/lists/x",
            "boot/vmlinuz-6.1",
            "etc/machine-id",
        ),
        *(
            "usr/share/doc/bash/copyright",
            "usr/lib/python3.11/__pycache__/os.pyc",
            "usr/lib/python3.11/os.py",
        ),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('PRETTY_NAME="Debian"\nID=debian\n')
    return root


def test_nothing_of_the_builder_and_no_secret_is_left(tmp_path: Path) -> None:
    root = debian(tmp_path)
    rootfs.clean(root)
    left = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert left == {
        *("usr/lib/os-release", "etc/ssh/sshd_config", "etc/shadow", "etc/machine-id"),
        *("usr/share/doc/bash/copyright", "usr/lib/python3.11/os.py"),
    }
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "boot/esp").is_dir() and (root / "var/cache").is_dir() and (root / "var/log").is_dir()


def test_the_system_says_which_image_it_is(tmp_path: Path) -> None:
    root = debian(tmp_path)
    rootfs.identity(root, inputs(tmp_path / "work"))
    said = dict(line.split("=", 1) for line in (root / "usr/lib/os-release").read_text().splitlines())
    assert said == {
        "PRETTY_NAME": '"Jumping VPN 1.2.3 (Debian 12)"',
        "ID": "debian",
        "IMAGE_ID": "jumping-vpn-appliance",
        "IMAGE_VERSION": "1.2.3",
        "VARIANT_ID": "cloud",
        "BUILD_ID": str(EPOCH),
    }


# --- initramfs -------------------------------------------------------------------------------------------------


def machine_id(root: Path) -> str:
    """Run that function of the script in a shell; what the system gets."""
    (root / "data").mkdir(exist_ok=True)
    (root / "etc").mkdir(exist_ok=True)
    subprocess.run(["sh", "-euc", f'. "{SCRIPT}"; rootmnt="{root}"; machine_id'], check=True)
    written = (root / "etc/machine-id").read_text()
    assert re.fullmatch(r"[0-9a-f]{32}\n", written)
    assert (root / "data/machine-id").read_text() == written
    return written


def test_a_machine_keeps_its_id_and_others_have_another(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    first = machine_id(one)
    (one / "etc/machine-id").unlink()
    assert machine_id(one) == first
    assert machine_id(other) != first


@pytest.mark.parametrize("kept", ["", "\n", "123\n", "G" * 32 + "\n", "a" * 33 + "\n", "uninitialized\n"])
def test_what_is_no_id_is_replaced(tmp_path: Path, kept: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/machine-id").write_text(kept)
    assert machine_id(tmp_path) != kept


@pytest.mark.parametrize("script", [SCRIPT, HOOK], ids=["script", "hook"])
def test_shell_scripts_parse(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="no GRUB here: `.ci/setup image`")
@pytest.mark.parametrize("name", ["grub.cfg", "iso.cfg", "early-iso.cfg"])
def test_grubs_scripts_parse(name: str) -> None:
    subprocess.run(["grub-script-check", plan.FILES / "grub" / name], check=True)


def test_the_kernel_hears_everything_the_initramfs_reads() -> None:
    line = next(text for text in (plan.FILES / "grub/grub.cfg").read_text().splitlines() if " linux " in text)
    for word in (
        "boot=appliance",
        "jvpn.slot=$1",
        "jvpn.roothash=${roothash}",
        "panic=30",
        "console=ttyS0,115200",
    ):
        assert word in line.split()
    live = next(text for text in (plan.FILES / "grub/iso.cfg").read_text().splitlines() if " linux " in text)
    assert {"boot=appliance", "jvpn.slot=live", "panic=30"} <= set(live.split())
    read = set(re.findall(r"(jvpn\.\w+)=\*\)", SCRIPT.read_text()))
    assert read == {"jvpn.slot", "jvpn.roothash"}
