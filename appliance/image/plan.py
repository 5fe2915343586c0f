# SPDX-License-Identifier: Apache-2.0
"""What the image is made of: packages, partitions, fixed identifiers, limits. A change is read here at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = ROOT / "appliance" / "image" / "files"
ROOTFS: Final = ROOT / "appliance" / "rootfs"
LOCK: Final = ROOT / "appliance" / "image" / "packages.lock"

NAME: Final = "jumping-vpn"
IMAGE_ID: Final = "jumping-vpn-appliance"
ARCHITECTURE: Final = "amd64"
SUITE: Final = "bookworm"
# Debian's own sources of this machine; an administrator's mirror in them is used for the build as well.
SOURCES: Final = Path("/etc/apt/sources.list.d/debian.sources")
SOURCES_FALLBACK: Final = Path("/etc/apt/sources.list")


class Flavour(NamedTuple):
    """A kernel and what follows from it."""

    name: Literal["cloud", "generic"]
    kernel_package: str
    # Of names of files, where the cloud's have none.
    suffix: str
    # Folders of the kernel's modules that no gateway needs.
    pruned_modules: tuple[str, ...]


CLOUD: Final = Flavour(
    "cloud",
    "linux-image-cloud-amd64",
    "",
    (
        "kernel/sound",
        "kernel/drivers/infiniband",
        "kernel/drivers/media",
        "kernel/fs/ocfs2",
        "kernel/fs/ceph",
    ),
)
# The cloud kernel has neither AHCI, USB nor a screen beyond text: media and machines need this one.
GENERIC: Final = Flavour(
    "generic",
    "linux-image-amd64",
    "-generic",
    (
        "kernel/sound",
        "kernel/drivers/gpu",
        "kernel/drivers/media",
        "kernel/drivers/infiniband",
        "kernel/drivers/staging",
        "kernel/drivers/iio",
        "kernel/drivers/isdn",
        "kernel/drivers/comedi",
        "kernel/drivers/bluetooth",
        "kernel/drivers/input/touchscreen",
        "kernel/drivers/input/joystick",
        "kernel/drivers/net/wireless",
        "kernel/drivers/net/can",
        "kernel/drivers/net/fddi",
        "kernel/drivers/net/hamradio",
        "kernel/fs/ocfs2",
        "kernel/fs/ceph",
        "kernel/fs/gfs2",
        "kernel/net/bluetooth",
        "kernel/net/mac80211",
        "kernel/net/wireless",
        "kernel/net/can",
        "kernel/net/nfc",
        "kernel/net/hamradio",
        "kernel/net/ax25",
    ),
)

PACKAGES: Final = (
    "usr-is-merged",
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    # Names for time servers and updates; it listens on nothing outside the box.
    "systemd-resolved",
    "udev",
    "dbus",
    "libpam-systemd",
    "python3",
    "nftables",
    "iproute2",
    "iputils-ping",
    "kmod",
    "initramfs-tools",
    "zstd",
    "procps",
    "ca-certificates",
    "cryptsetup-bin",
    "e2fsprogs",
    "fdisk",
    "mount",
    # What the console edits files with.
    "nano",
    # Off until a key for it exists.
    "openssh-server",
)

# Needed to build the image, not to run it: removed from the tree without their dependants being asked, since nothing in
# the guest calls them. Perl's users are scripts of installations.
BUILD_ONLY: Final = (
    "initramfs-tools",
    "initramfs-tools-core",
    "klibc-utils",
    "libklibc",
    "linux-base",
    "usrmerge",
    "adduser",
    "ucf",
    "debconf",
    "perl",
    "libperl5.36",
    "perl-modules-5.36",
    "libfile-find-rule-perl",
    "libtext-glob-perl",
    "libnumber-compare-perl",
    "perl-base",
    "cpio",
)

# Removed from the tree, as patterns below it. Copyright files stay: licences ask for them.
CLEANED: Final = (
    "boot/*",
    "var/cache/*",
    "var/log/*",
    "var/lib/apt",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/available",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/catalog/*",
    "var/lib/initramfs-tools",
    "etc/initramfs-tools",
    "etc/apt",
    "etc/*-",
    "etc/.pwd.lock",
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "tmp/*",
    "run/*",
    "initrd.img*",
    "vmlinuz*",
    "usr/share/initramfs-tools",
    "usr/include",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/zsh",
    "usr/share/fish",
    "usr/share/doc/jumping-vpn/*.md",
    "usr/share/doc/jumping-vpn/*.md.gz",
    "usr/share/doc/jumping-vpn/changelog.gz",
    "usr/share/jumping-vpn/grafana",
    "usr/share/jumping-vpn/prometheus",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/tkinter",
    "usr/lib/python3.11/turtledemo",
)

MIB: Final = 1 << 20
SECTOR_BYTES: Final = 512


class Partition(NamedTuple):
    """One partition: sizes in MiB, its type and its own identifier. Equal images have equal identifiers."""

    label: str
    start_mib: int
    size_mib: int
    type_guid: str
    guid: str

    @property
    def start_sector(self) -> int:
        return self.start_mib * MIB // SECTOR_BYTES

    @property
    def start_bytes(self) -> int:
        return self.start_mib * MIB


BIOS_TYPE: Final = "21686148-6449-6E6F-744E-656564454649"
ESP_TYPE: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
# Linux data, also for the slots: the types of root partitions would let systemd look for roots by itself.
LINUX_TYPE: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

DISK_GUID: Final = "6A76706E-0000-4000-8000-000000000000"
# A slot has room for the generic kernel's root (130 MB) and growth; data is last, so that it can grow.
PARTITIONS: Final = tuple(
    Partition(label, start, size, kind, f"6A76706E-0000-4000-8000-{number:012X}")
    for number, (label, start, size, kind) in enumerate(
        (
            ("bios", 1, 1, BIOS_TYPE),
            ("esp", 2, 128, ESP_TYPE),
            ("root-a", 130, 160, LINUX_TYPE),
            ("verity-a", 290, 8, LINUX_TYPE),
            ("root-b", 298, 160, LINUX_TYPE),
            ("verity-b", 458, 8, LINUX_TYPE),
            ("data", 466, 64, LINUX_TYPE),
        ),
        1,
    )
)
DISK_MIB: Final = 531

ESP_LABEL: Final = "JVPN-ESP"
ESP_SERIAL: Final = "6a76706e"
DATA_LABEL: Final = "jvpn-data"
DATA_UUID: Final = "6a76706e-0000-4000-8000-0000000000da"
DATA_HASH_SEED: Final = "6a76706e-0000-4000-8000-0000000000db"
VERITY_UUID: Final = "6a76706e-0000-4000-8000-0000000000f0"
ISO_LABEL: Final = "JVPN-LIVE"

# What must hold; printed beside what was made.
QCOW2_MAX_BYTES: Final = 120 * 10**6
ISO_MAX_BYTES: Final = 200 * 10**6
BUILD_MAX_S: Final = 360


def partition(label: str) -> Partition:
    """The partition of that label."""
    return next(entry for entry in PARTITIONS if entry.label == label)


def version() -> str:
    """The product's version, read without importing it: its extensions may not be built."""
    text = (ROOT / "gateway" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise SystemExit("gateway/__init__.py names no version")
    return found[1]
