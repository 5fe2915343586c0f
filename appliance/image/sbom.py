# SPDX-License-Identifier: Apache-2.0
"""The bill of materials: SPDX 2.3 as JSON.

Debian's packages, and what ours has inside: Python libraries, libsodium, uPlot. It lies in the image as well, so it
says nothing of files made after the root file system.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from appliance.image import plan
from appliance.image.packages import NO_DIGEST, Package

DOCUMENT: Final = "SPDXRef-DOCUMENT"
IMAGE: Final = "SPDXRef-Image"
NONE: Final = "NOASSERTION"
# What older metadata says in its own words; SPDX wants its identifiers.
LICENCES: Final = {
    "MIT": "MIT",
    "MIT License": "MIT",
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD-3-Clause": "BSD-3-Clause",
    "PSF-2.0": "PSF-2.0",
}
# Of ours that brings no metadata: name, version, licence, file below /usr/lib/jumping-vpn that shows it is there.
BUNDLED: Final = (
    ("libsodium", re.compile(rb"\b(1\.0\.\d+)\0"), "ISC", "gateway/_lib/libsodium.so*"),
    ("uPlot", re.compile(rb"uPlot \(v([0-9.]+)\)"), "MIT", "gateway/ops/dashboard/static/uplot/*.js"),
)


def identifier(kind: str, name: str) -> str:
    """An SPDX identifier: letters, digits, dots and dashes."""
    return f"SPDXRef-{kind}-{re.sub('[^A-Za-z0-9.-]', '-', name)}"


def entry(kind: str, name: str, version: str, licence: str = NONE, purl: str = "") -> dict[str, Any]:
    """One package of the document."""
    made: dict[str, Any] = {
        "SPDXID": identifier(kind, name),
        "name": name,
        "versionInfo": version,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        "licenseDeclared": licence,
        "copyrightText": NONE,
    }
    if purl:
        reference = {
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }
        made["externalRefs"] = [reference]
    return made


def debian(package: Package) -> dict[str, Any]:
    """A package of Debian's, or ours."""
    known = package.sha256 != NO_DIGEST
    place = (
        f"pkg:deb/debian/{quote(package.name)}@{quote(package.version, safe='')}?arch={package.architecture}"
    )
    made = entry("deb", package.name, package.version, purl=f"{place}&distro={plan.SUITE}" if known else "")
    made["sourceInfo"] = f"built from the source package {package.source}"
    if known:
        made["checksums"] = [{"algorithm": "SHA256", "checksumValue": package.sha256}]
    else:
        made["licenseDeclared"] = "Apache-2.0"
    return made


def python_libraries(home: Path) -> Iterator[dict[str, Any]]:
    """Libraries beside the gateway, by their metadata."""
    for metadata in sorted(home.glob("*.dist-info/METADATA")):
        head = metadata.read_text(errors="replace").split("\n\n")[0]
        fields = dict(re.findall(r"^(Name|Version|License|License-Expression): (.+)$", head, re.MULTILINE))
        name, version = fields["Name"], fields["Version"]
        licence = fields.get("License-Expression") or LICENCES.get(fields.get("License", ""), NONE)
        yield entry("pypi", name, version, licence, f"pkg:pypi/{name.lower().replace('_', '-')}@{version}")


def bundled(home: Path) -> Iterator[dict[str, Any]]:
    """What is inside without metadata; its version is read from the file itself."""
    for name, version, licence, pattern in BUNDLED:
        for path in sorted(home.glob(pattern)):
            if found := version.search(path.read_bytes()):
                yield entry("bundled", name, found[1].decode(), licence)
                break


def relation(one: str, kind: str, other: str) -> dict[str, str]:
    """A relationship of the document."""
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def document(root: Path, packages: Iterable[Package], version: str, epoch: int) -> str:
    """The whole document. Its namespace is made of its content: equal images have equal documents."""
    home = root / "usr/lib/jumping-vpn"
    inside = [*python_libraries(home), *bundled(home)]
    listed = [debian(package) for package in packages]
    ours = identifier("deb", plan.NAME)
    related = [relation(DOCUMENT, "DESCRIBES", IMAGE)]
    related += [relation(IMAGE, "CONTAINS", made["SPDXID"]) for made in listed]
    related += [relation(ours, "CONTAINS", made["SPDXID"]) for made in inside]
    content = json.dumps([*listed, *inside], sort_keys=True).encode()
    made = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": f"{plan.IMAGE_ID}-{version}",
        "documentNamespace": f"https://jumping-vpn.example/spdx/{version}/{hashlib.sha256(content).hexdigest()}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: {plan.NAME}-image-{version}"],
        },
        "packages": [entry("x", plan.IMAGE_ID, version, "Apache-2.0") | {"SPDXID": IMAGE}, *listed, *inside],
        "relationships": related,
    }
    return json.dumps(made, indent=1, sort_keys=True) + "\n"
