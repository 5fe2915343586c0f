# SPDX-License-Identifier: Apache-2.0
"""A slot: the root file system as squashfs, its verity tree, kernel and initramfs. A disk has two, an update is one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Final

from appliance.image import plan
from appliance.image.rootfs import Tree
from appliance.image.shell import BuildError, environment, run
from appliance.update import slotcfg

# 256 KiB blocks: 128 KiB gives 4 MB more, 1 MiB reads too much for one file.
SQUASHFS_BLOCK: Final = "256K"
FILES: Final = ("root.squashfs", "root.verity", "vmlinuz", "initrd", "slot.cfg")


def make(tree: Tree, slot: Path, version: str, epoch: int) -> None:
    """Fill the folder ``slot``."""
    shutil.rmtree(slot, ignore_errors=True)
    slot.mkdir(parents=True)
    shutil.copyfile(tree.kernel, slot / "vmlinuz")
    shutil.copyfile(tree.initrd, slot / "initrd")
    squashfs(tree.root, slot / "root.squashfs", epoch)
    roothash = verity(slot / "root.squashfs", slot / "root.verity")
    (slot / "slot.cfg").write_text(slotcfg.encode(slotcfg.SlotConfig(roothash, version, epoch)))
    fits(slot)
    (slot / "manifest.json").write_text(manifest(slot, version, epoch, roothash))


def squashfs(root: Path, image: Path, epoch: int) -> None:
    """Times after the epoch are set to it, the root directory's as well; files are read in the order of their names."""
    options = ("-comp", "zstd", "-b", SQUASHFS_BLOCK, "-noappend", "-no-progress", "-quiet", "-exit-on-error")
    run("mksquashfs", root, image, *options, "-root-mode", "0755", env=environment(epoch))


def verity(image: Path, tree: Path) -> str:
    """Make the hash tree; its root. The salt is the image's digest: fixed, and another for each image."""
    salt = hashlib.sha256(image.read_bytes()).hexdigest()
    tree.unlink(missing_ok=True)
    said = run("veritysetup", "format", f"--salt={salt}", f"--uuid={plan.VERITY_UUID}", image, tree)
    tree.chmod(0o644)
    found = re.search(r"Root hash:\s+([0-9a-f]{64})", said)
    if found is None:
        raise BuildError(f"veritysetup named no root hash:\n{said}")
    return found[1]


def fits(slot: Path) -> None:
    """A slot that its partitions cannot hold is no slot."""
    for name, label in (("root.squashfs", "root-a"), ("root.verity", "verity-a")):
        size, room = (slot / name).stat().st_size, plan.partition(label).size_mib * plan.MIB
        if size > room:
            raise BuildError(f"{name} has {size} bytes, its partition {room}")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(slot: Path, version: str, serial: int, roothash: str) -> str:
    """What is in the slot, with sizes and digests."""
    files = {name: {"bytes": (slot / name).stat().st_size, "sha256": digest(slot / name)} for name in FILES}
    made = {"version": version, "serial": serial, "roothash": roothash, "files": files}
    return json.dumps(made, indent=1, sort_keys=True) + "\n"
