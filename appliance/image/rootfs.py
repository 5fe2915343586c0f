# SPDX-License-Identifier: Apache-2.0
"""The tree of the root file system: Debian's packages, ours, the overlay; then what only a build needs is taken out.

Rule: the tree depends on the packages, this source tree and one time, on nothing else of the builder. No machine id, no
host key, no password, no package manager's lists are left in it.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from appliance.image import packages, plan, sbom
from appliance.image.shell import BuildError, environment, run

# Parts of appliance/ that run in the guest; the build does not.
GUEST_PARTS: Final = ("guest", "update")


class Tree(NamedTuple):
    """A finished tree, its kernel and initramfs, and the packages that were used, a few of which are not left in it."""

    root: Path
    kernel: Path
    initrd: Path
    used: tuple[packages.Package, ...]


class Inputs(NamedTuple):
    """What a tree is made from."""

    flavour: plan.Flavour
    work: Path
    deb: Path
    update_key: str
    epoch: int
    version: str


def make(inputs: Inputs) -> Tree:
    """Build the tree in ``inputs.work``/root."""
    root = inputs.work / "root"
    remove(root)
    inputs.work.mkdir(parents=True, exist_ok=True)
    bootstrap(inputs, root)
    kernel, initrd = take_kernel(root, inputs.work)
    used = packages.installed(root, inputs.work / "available")
    finish(inputs, root)
    return Tree(root, kernel, initrd, used)


def remove(path: Path) -> None:
    """Delete a tree of an earlier build."""
    if path.exists():
        run("rm", "-rf", "--one-file-system", path)


def sources() -> Path:
    """Debian's sources as this machine has them."""
    found = [path for path in (plan.SOURCES, plan.SOURCES_FALLBACK) if path.exists()]
    if not found:
        raise BuildError(
            f"neither {plan.SOURCES} nor {plan.SOURCES_FALLBACK} is there: the build runs on Debian 12"
        )
    return found[0]


def bootstrap(inputs: Inputs, root: Path) -> None:
    """Packages by mmdebstrap. The initramfs' configuration lies there before the kernel is configured: one is built."""
    work = inputs.work
    initramfs = plan.FILES / "initramfs"
    options = [
        "--variant=essential",
        "--mode=root",
        "--format=directory",
        "--quiet",
        f"--include={','.join((*plan.PACKAGES, inputs.flavour.kernel_package))}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f'--essential-hook=mkdir -p "$1/etc/initramfs-tools" && cp -r {initramfs}/. "$1/etc/initramfs-tools/"',
        f'--customize-hook=cp {inputs.deb} "$1/tmp/our.deb" && chroot "$1" dpkg -i /tmp/our.deb && rm "$1/tmp/our.deb"',
        f'--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache dumpavail >{work}/available',
    ]
    run("mmdebstrap", *options, plan.SUITE, root, sources(), env=environment(inputs.epoch))


def take_kernel(root: Path, work: Path) -> tuple[Path, Path]:
    """Copies of the kernel and the initramfs: they lie on the ESP, not in the root file system."""
    made = []
    for pattern, name in (("boot/vmlinuz-*", "vmlinuz"), ("boot/initrd.img-*", "initrd")):
        found = sorted(root.glob(pattern))
        if len(found) != 1:
            raise BuildError(f"{pattern}: {len(found)} files, not one")
        shutil.copyfile(found[0], work / name)
        made.append(work / name)
    return made[0], made[1]


# --- after the packages ----------------------------------------------------------------------------------------


def finish(inputs: Inputs, root: Path) -> None:
    """Everything that is ours, and cleaning."""
    purge(root)
    installed = packages.installed(root, inputs.work / "available")
    prune_modules(root, inputs.flavour)
    identity(root, inputs)
    clean(root)
    guest_code(root)
    overlay(root, plan.ROOTFS)
    defaults(root)
    bytecode(root)
    about = root / "usr/share/jumping-vpn"
    write(about / "packages.txt", packages.listing(installed))
    write(about / "sbom.spdx.json", sbom.document(root, installed, inputs.version, inputs.epoch))
    write(about / "update.pub", inputs.update_key)


def chroot(root: Path, *command: str) -> str:
    """Run a program of the tree."""
    wanted = {
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    return run("chroot", root, *command, env=wanted)


def purge(root: Path) -> None:
    """Packages that only the build needs; without their scripts, which need each other and mend a system that stays."""
    scripts = root / "var/lib/dpkg/info"
    for name in plan.BUILD_ONLY:
        for script in ("prerm", "postrm"):
            (scripts / f"{name}.{script}").unlink(missing_ok=True)
    chroot(root, "dpkg", "--purge", "--force-all", *plan.BUILD_ONLY)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """One file of the image, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def prune_modules(root: Path, flavour: plan.Flavour) -> None:
    """Drivers no gateway needs; depmod after it, or their aliases would stay."""
    for modules in sorted((root / "lib/modules").iterdir()):
        for folder in flavour.pruned_modules:
            remove(modules / folder)
        run("depmod", "-b", root, modules.name)


def overlay(root: Path, source: Path) -> None:
    """Copy the overlay, owned by root. Of modes only the bit for execution is taken: the builder's umask may be any."""
    for path in below(source):
        target = root / path.relative_to(source)
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            target.unlink(missing_ok=True)
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir(parents=True, exist_ok=True, mode=0o755)
        else:
            copy(path, target)


def below(source: Path) -> Iterator[Path]:
    """Everything below a folder in order, without bytecode."""
    for path in sorted(source.rglob("*")):
        if "__pycache__" not in path.parts and path.name != ".gitkeep":
            yield path


def copy(path: Path, target: Path) -> None:
    """One file with 0644, or 0755 when it may be run."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    target.unlink(missing_ok=True)
    shutil.copyfile(path, target)
    target.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


def guest_code(root: Path) -> None:
    """The Python of the appliance beside the gateway's."""
    home = root / "usr/lib/jumping-vpn/appliance"
    copy(plan.ROOT / "appliance/__init__.py", home / "__init__.py")
    for part in GUEST_PARTS:
        source = plan.ROOT / "appliance" / part
        for path in below(source) if source.is_dir() else ():
            if path.is_file():
                copy(path, home / part / path.relative_to(source))


def identity(root: Path, inputs: Inputs) -> None:
    """What the system says it is, and the places that are filled when it starts."""
    release = root / "usr/lib/os-release"
    kept = [line for line in release.read_text().splitlines() if not line.startswith("PRETTY_NAME=")]
    ours = [
        f'PRETTY_NAME="Jumping VPN {inputs.version} (Debian 12)"',
        f"IMAGE_ID={plan.IMAGE_ID}",
        f"IMAGE_VERSION={inputs.version}",
        f"VARIANT_ID={inputs.flavour.name}",
        f"BUILD_ID={inputs.epoch}",
    ]
    write(release, "\n".join((*ours[:1], *kept, *ours[1:])) + "\n")
    write(root / "etc/default/locale", "LANG=C.UTF-8\n")
    (root / "data").mkdir(mode=0o755, exist_ok=True)
    (root / "boot/esp").mkdir(mode=0o755, parents=True, exist_ok=True)


def clean(root: Path) -> None:
    """What a running gateway does not need and what differs from build to build."""
    for pattern in plan.CLEANED:
        for path in sorted(root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                remove(path)
            else:
                path.unlink()
    for path in sorted(root.rglob("__pycache__")):
        remove(path)
    (root / "boot/esp").mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in ("var/cache", "var/log"):
        (root / folder).mkdir(mode=0o755, exist_ok=True)
    # Empty, not absent: the initramfs writes the machine's own into it.
    write(root / "etc/machine-id", "", 0o444)


def defaults(root: Path) -> None:
    """What the overlay does not bring itself."""
    if not (root / "etc/hostname").exists():
        write(root / "etc/hostname", "jumping-vpn\n")
    # /usr is as new as they are: nothing is to be updated when the system starts.
    for folder in ("etc", "var"):
        write(root / folder / ".updated", "")
    if not (root / "etc/resolv.conf").is_symlink():
        (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/resolv.conf")


def bytecode(root: Path) -> None:
    """Made once with no times in it; the root is read-only in effect, and compiling at each start costs seconds."""
    where = ("/usr/lib/python3.11", "/usr/lib/jumping-vpn")
    made = ("-m", "compileall", "-q", "-f", "-j", "1", "--invalidation-mode", "unchecked-hash")
    chroot(root, "/usr/bin/python3", "-IS", *made, *where)
