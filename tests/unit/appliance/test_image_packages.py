# SPDX-License-Identifier: Apache-2.0
"""The list of packages, what pins it, and the bill of materials."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.image import packages, plan, sbom
from appliance.image.packages import NO_DIGEST, Package

EPOCH = 1_700_000_000
STATUS = """\
Package: zlib1g
Status: install ok installed
Source: zlib
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Description: compression
 library

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all

Package: jumping-vpn
Status: install ok installed
Version: 0.1.0
Architecture: amd64

Package: bash
Status: install ok installed
Source: bash (5.2.15-2)
Version: 5.2.15-2+b7
Architecture: amd64
"""
AVAILABLE = f"""\
Package: bash
Version: 5.2.15-2+b7
Architecture: amd64
SHA256: {"b" * 64}

Package: zlib1g
Version: 1:1.2.13.dfsg-1
Architecture: amd64
SHA256: {"2" * 64}

Package: jumping-vpn
Version: 9.9
Architecture: amd64
SHA256: {"9" * 64}
"""
BASH = Package("bash", "5.2.15-2+b7", "amd64", "bash", "b" * 64)
OURS = Package("jumping-vpn", "0.1.0", "amd64", "jumping-vpn", NO_DIGEST)
ZLIB = Package("zlib1g", "1:1.2.13.dfsg-1", "amd64", "zlib", "2" * 64)


def test_installed_packages_in_order_with_the_digest_of_that_version_only() -> None:
    assert packages.parse(STATUS, AVAILABLE) == (BASH, OURS, ZLIB)


def test_the_listing_is_what_the_lock_is_read_from() -> None:
    text = packages.listing((BASH, ZLIB))
    assert text.splitlines()[0] == f"bash 5.2.15-2+b7 {'b' * 64}"
    assert packages.moved(text, (BASH, OURS, ZLIB)) == []


def test_what_moved_is_said_in_words() -> None:
    pinned = packages.listing((BASH, ZLIB))
    newer, other = BASH._replace(version="5.3"), ZLIB._replace(sha256="3" * 64)
    assert packages.moved(pinned, (newer, ZLIB)) == ["bash 5.2.15-2+b7 became 5.3"]
    assert packages.moved(pinned, (BASH, other)) == ["zlib1g 1:1.2.13.dfsg-1 has another digest"]
    assert packages.moved(pinned, (BASH,)) == ["zlib1g 1:1.2.13.dfsg-1 is gone"]
    kernel = BASH._replace(name="linux-image-amd64")
    assert packages.moved(packages.listing((BASH, kernel)), (BASH,)) == []
    assert packages.moved(packages.listing((BASH,)), (BASH, ZLIB)) == ["zlib1g 1:1.2.13.dfsg-1 is new"]


def tree(root: Path) -> Path:
    """A root file system with one library and libsodium's version inside."""
    home = root / "usr/lib/jumping-vpn"
    metadata = home / "uvloop-0.23.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(
        "Metadata-Version: 2.4\nName: uvloop\nVersion: 0.23.0\nLicense-Expression: MIT\n\nName: no\n"
    )
    (home / "gateway/_lib").mkdir(parents=True)
    (home / "gateway/_lib/libsodium.so.26").write_bytes(b"\x7fELF\x001.0.20\x00")
    return root


def test_the_bill_of_materials_names_everything_and_how_it_hangs_together(tmp_path: Path) -> None:
    made = json.loads(sbom.document(tree(tmp_path), (BASH, OURS, ZLIB), "0.1.0", EPOCH))
    assert made["spdxVersion"] == "SPDX-2.3" and made["dataLicense"] == "CC0-1.0"
    assert made["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    listed = {entry["name"]: entry for entry in made["packages"]}
    assert listed.keys() == {plan.IMAGE_ID, "bash", "jumping-vpn", "zlib1g", "uvloop", "libsodium"}
    assert listed["zlib1g"]["checksums"] == [{"algorithm": "SHA256", "checksumValue": "2" * 64}]
    assert listed["zlib1g"]["externalRefs"][0]["referenceLocator"].startswith(
        "pkg:deb/debian/zlib1g@1%3A1.2.13"
    )
    assert listed["uvloop"]["licenseDeclared"] == "MIT" and listed["uvloop"]["versionInfo"] == "0.23.0"
    assert listed["libsodium"]["versionInfo"] == "1.0.20"
    assert "checksums" not in listed["jumping-vpn"]
    known = {entry["SPDXID"] for entry in made["packages"]} | {"SPDXRef-DOCUMENT"}
    assert len(known) == len(listed) + 1
    related = {
        (r["spdxElementId"], r["relationshipType"], r["relatedSpdxElement"]) for r in made["relationships"]
    }
    assert {end for one, _, other in related for end in (one, other)} <= known
    assert ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image") in related
    assert ("SPDXRef-deb-jumping-vpn", "CONTAINS", "SPDXRef-bundled-libsodium") in related


def test_equal_contents_have_equal_documents_and_others_another_name(tmp_path: Path) -> None:
    root = tree(tmp_path)
    once, again = (sbom.document(root, (BASH, ZLIB), "0.1.0", EPOCH) for _ in range(2))
    assert once == again
    other = json.loads(sbom.document(root, (BASH,), "0.1.0", EPOCH))
    assert other["documentNamespace"] != json.loads(once)["documentNamespace"]
