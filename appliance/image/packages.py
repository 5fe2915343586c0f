# SPDX-License-Identifier: Apache-2.0
"""Which Debian packages are in the image: versions and the digests of the files they came as; and what pins them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FIELD = re.compile(r"^([A-Za-z0-9-]+): ?(.*)$")
NO_DIGEST = "-"
KERNELS = "linux-image-"


class Package(NamedTuple):
    """One package of the image. ``sha256`` is that of its .deb, "-" where no index names it (our own)."""

    name: str
    version: str
    architecture: str
    source: str
    sha256: str

    @property
    def line(self) -> str:
        return f"{self.name} {self.version} {self.sha256}"


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Paragraphs of a control file; continued lines are left out, no field wanted here has any."""
    for block in text.split("\n\n"):
        found = (FIELD.match(line) for line in block.splitlines())
        fields = {match[1]: match[2] for match in found if match}
        if "Package" in fields:
            yield fields


def parse(status: str, available: str) -> tuple[Package, ...]:
    """The installed packages of dpkg's status, with digests from what apt had to offer."""
    digests = {
        (fields["Package"], fields.get("Version"), fields.get("Architecture")): fields["SHA256"]
        for fields in paragraphs(available)
        if "SHA256" in fields
    }
    return tuple(
        sorted(
            Package(
                fields["Package"],
                fields["Version"],
                fields["Architecture"],
                fields.get("Source", fields["Package"]).split(" ")[0],
                digests.get((fields["Package"], fields["Version"], fields["Architecture"]), NO_DIGEST),
            )
            for fields in paragraphs(status)
            if fields.get("Status", "").endswith(" installed")
        )
    )


def installed(root: Path, available: Path) -> tuple[Package, ...]:
    """What is installed in a tree."""
    return parse((root / "var/lib/dpkg/status").read_text(), available.read_text())


def listing(packages: Iterable[Package]) -> str:
    """``name version sha256``, a line each: packages.txt and packages.lock."""
    return "".join(f"{package.line}\n" for package in packages)


def moved(locked: str, packages: Iterable[Package]) -> list[str]:
    """What differs from the pinned list, in words. Our own package is built here and has no pin.

    Kernels that are not used are passed over: the list has those of both flavours.
    """
    pinned = {
        words[0]: (words[1], words[2]) for words in map(str.split, locked.splitlines()) if len(words) == 3
    }
    here = {
        package.name: (package.version, package.sha256) for package in packages if package.sha256 != NO_DIGEST
    }
    gone = sorted(name for name in pinned.keys() - here.keys() if not name.startswith(KERNELS))
    told = [f"{name} {pinned[name][0]} is gone" for name in gone]
    told += [f"{name} {here[name][0]} is new" for name in sorted(here.keys() - pinned.keys())]
    for name in sorted(pinned.keys() & here.keys()):
        if pinned[name][0] != here[name][0]:
            told.append(f"{name} {pinned[name][0]} became {here[name][0]}")
        elif pinned[name] != here[name]:
            told.append(f"{name} {pinned[name][0]} has another digest")
    return told
