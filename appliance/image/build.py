# SPDX-License-Identifier: Apache-2.0
"""The build in its order: our package, the tree, the slot, the disk with its formats, the bundle; the ISO; the sums."""

from __future__ import annotations

import base64
import os
import shutil
import time
from pathlib import Path
from typing import Final, NamedTuple

from appliance.image import disk, iso, packages, plan, rootfs, slot
from appliance.image.shell import BuildError, missing, run, say, step
from appliance.update import sign
from gateway import crypto

TOOLS: Final = (
    ("mmdebstrap", "mmdebstrap"),
    ("mksquashfs", "squashfs-tools"),
    ("mcopy", "mtools"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.ext4", "e2fsprogs"),
    ("sfdisk", "fdisk"),
    ("veritysetup", "cryptsetup-bin"),
    ("grub-mkimage", "grub-common"),
    ("qemu-img", "qemu-utils"),
    ("xorriso", "xorriso"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
)


SUMS: Final = "SHA256SUMS"


class Options(NamedTuple):
    """What was asked for."""

    out: Path
    with_iso: bool
    locked: bool
    update_lock: bool
    key: Path


def build(options: Options) -> None:
    """Make everything that was asked for in ``options.out``."""
    ready()
    options.out.mkdir(parents=True, exist_ok=True)
    sweep(options.out)
    epoch, version = source_epoch(), plan.version()
    key, deb = update_key(options.key), package(epoch, version)
    used: set[packages.Package] = set()
    for flavour in (plan.CLOUD, plan.GENERIC) if options.with_iso else (plan.CLOUD,):
        work = options.out / f"work-{flavour.name}"
        used |= set(image(options, rootfs.Inputs(flavour, work, deb, key, epoch, version)))
    pins(options, sorted(used))
    sums(options.out)


def ready() -> None:
    """The builder has what is needed: root, for the owners of files, and the tools."""
    if os.geteuid() != 0:
        raise BuildError(
            "the image is built as root: its files have owners, and packages are set up in a chroot"
        )
    if absent := missing(TOOLS):
        raise BuildError(f"these packages are missing: {' '.join(absent)}; `.ci/setup image` installs them")


def source_epoch() -> int:
    """The one time of the build, and its serial: of the last commit, unless SOURCE_DATE_EPOCH says otherwise."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    return int(told or run("git", "-C", plan.ROOT, "log", "-1", "--format=%ct").strip())


def update_key(path: Path) -> str:
    """The public half of the key that signs updates, as the image has it; the key is made when there is none."""
    if not path.exists():
        sign.make_key(path)
        say(f"  made a key for updates: {path}. Keep it: appliances of this image take no update without it")
    public, _ = crypto.ed25519_seed_keypair(sign.read_key(path))
    return base64.b64encode(public).decode() + "\n"


def package(epoch: int, version: str) -> Path:
    """Our Debian package."""
    run(plan.ROOT / ".ci/package", env={"SOURCE_DATE_EPOCH": str(epoch)})
    return plan.ROOT / f"build/deb/{plan.NAME}_{version}_{plan.ARCHITECTURE}.deb"


def image(options: Options, inputs: rootfs.Inputs) -> tuple[packages.Package, ...]:
    """One flavour from packages to its files; the packages it was made from."""
    begun = time.monotonic()
    flavour, folder = inputs.flavour, options.out / f"slot{inputs.flavour.suffix}"
    kind, write = ("ISO", medium) if flavour is plan.GENERIC else ("disk", disks)
    say(f"{kind} with the {flavour.name} kernel")
    with step("root file system"):
        tree = rootfs.make(inputs)
    with step("squashfs and verity"):
        slot.make(tree, folder, inputs.version, inputs.epoch)
    name = f"{plan.NAME}-{inputs.version}-{plan.ARCHITECTURE}"
    with step(kind):
        made = write(options.out / name, inputs, folder)
    with step("update bundle"):
        bundle = options.out / f"{name}{flavour.suffix}.jvpnup"
        sign.write_bundle(folder, bundle, sign.read_key(options.key), flavour.name)
    about(options.out, tree, flavour.suffix)
    shutil.rmtree(inputs.work)
    report([*made, bundle, folder / "root.squashfs"], time.monotonic() - begun)
    return tree.used


def disks(base: Path, inputs: rootfs.Inputs, folder: Path) -> list[Path]:
    """The raw disk and its formats."""
    path = base.with_name(f"{base.name}.raw")
    disk.raw(path, inputs.work, folder, inputs.epoch)
    return [path, *disk.formats(path, inputs.epoch)]


def medium(base: Path, inputs: rootfs.Inputs, folder: Path) -> list[Path]:
    """The ISO."""
    path = base.with_name(f"{base.name}.iso")
    iso.make(path, inputs.work, folder, inputs.epoch)
    return [path]


def about(out: Path, tree: rootfs.Tree, suffix: str) -> None:
    """The lists that lie in the image, beside it."""
    for name in ("packages.txt", "sbom.spdx.json"):
        stem, dot, rest = name.partition(".")
        shutil.copyfile(tree.root / "usr/share/jumping-vpn" / name, out / f"{stem}{suffix}{dot}{rest}")


def pins(options: Options, used: list[packages.Package]) -> None:
    """Compare with the pinned list, or write it."""
    name = plan.LOCK.relative_to(plan.ROOT)
    if options.update_lock:
        pinned = [package for package in used if package.sha256 != packages.NO_DIGEST]
        plan.LOCK.write_text(packages.listing(pinned))
        say(f"  wrote {name}: {len(pinned)} packages")
        return
    told = packages.moved(plan.LOCK.read_text(), used)
    for line in told:
        say(f"  not as pinned: {line}")
    if told and options.locked:
        raise BuildError(f"{len(told)} packages are not as {name} has them; --update-lock takes them over")


def limit(path: Path) -> int | None:
    """The size a file must keep below, if there is a target."""
    return {".qcow2": plan.QCOW2_MAX_BYTES, ".iso": plan.ISO_MAX_BYTES}.get(path.suffix)


def report(made: list[Path], seconds: float) -> None:
    """Sizes and the time, beside what must hold."""
    for path in made:
        stat = path.stat()
        most = limit(path)
        target = (
            ""
            if most is None
            else f"  (at most {most / 1e6:.0f}: {'held' if stat.st_size <= most else 'MISSED'})"
        )
        taken = (
            f", {stat.st_blocks * 512 / 1e6:.0f} on disk" if stat.st_blocks * 512 < stat.st_size * 0.9 else ""
        )
        say(f"  {path.name}: {stat.st_size / 1e6:.1f} MB{taken}{target}")
    held = "held" if seconds <= plan.BUILD_MAX_S else "MISSED"
    say(f"  built in {seconds:.0f} s (at most {plan.BUILD_MAX_S}: {held})")


def outputs(out: Path) -> list[Path]:
    """Every file that a build leaves, relative to ``out``, but for the sums themselves."""
    listed = (path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file())
    return [path for path in listed if path.name != SUMS and not path.parts[0].startswith("work-")]


def sweep(out: Path) -> None:
    """Remove what an earlier build listed: an ISO of before is not this build's."""
    listed = out / SUMS
    for line in listed.read_text().splitlines() if listed.exists() else ():
        (out / line.split("  ", 1)[1]).unlink(missing_ok=True)
    listed.unlink(missing_ok=True)


def sums(out: Path) -> None:
    """SHA256SUMS over all outputs."""
    lines = [f"{slot.digest(out / path)}  {path}\n" for path in outputs(out)]
    (out / SUMS).write_text("".join(lines))
