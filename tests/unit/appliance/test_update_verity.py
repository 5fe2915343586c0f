# SPDX-License-Identifier: Apache-2.0
"""dm-verity's tree against veritysetup 2.6.1 (`veritysetup format d h --salt= --uuid=`): 130 blocks, two levels."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.update import verity
from gateway.errors import HostError
from tests.unit.appliance.updating import SALT, superblock

DATA = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() * 128 for n in range(130))
ROOT = "9ab8b30d9edd2f967bf43384949b3ceaa5dce4cf9eeaf200329fcbc241b19d95"
# Of the whole file that veritysetup wrote, the superblock with this UUID included.
FILE_SHA256 = "6fe06ff47dc0b95a9faddb59bcc2a518ac961f097a72f9f9696d3639d39019a6"
UUID = bytes.fromhex("6a76706e0000400080000000000000f0")


def test_the_tree_is_the_one_that_veritysetup_writes() -> None:
    tree = verity.Tree(SALT)
    tree.update(DATA)
    root, levels = tree.finish()
    assert root == ROOT
    whole = superblock(130).replace(b"u" * 16, UUID) + levels
    assert hashlib.sha256(whole).hexdigest() == FILE_SHA256


@given(st.lists(st.integers(0, len(DATA)), max_size=6))
def test_pieces_may_have_any_size(cuts: list[int]) -> None:
    tree, at = verity.Tree(SALT), 0
    for cut in [*sorted(cuts), len(DATA)]:
        tree.update(DATA[at:cut])
        at = cut
    assert tree.finish()[0] == ROOT


def test_one_block_is_its_own_root() -> None:
    tree = verity.Tree(SALT)
    tree.update(DATA[:4096])
    assert tree.finish() == (hashlib.sha256(SALT + DATA[:4096]).hexdigest(), b"")


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_half_a_block_is_refused(size: int) -> None:
    tree = verity.Tree(SALT)
    tree.update(DATA[:size])
    with pytest.raises(HostError, match="whole number of blocks"):
        tree.finish()


def test_a_superblock_says_salt_and_size() -> None:
    assert verity.read_superblock(superblock(130)) == (130, SALT)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"V"),
        (8, b"\2"),
        (12, b"\0"),
        (32, b"sha512"),
        (64, b"\0\2\0\0"),
        (68, b"\0\2\0\0"),
        (80, b"\1\1"),
    ],
)
def test_any_other_format_is_refused(at: int, value: bytes) -> None:
    changed = bytearray(superblock(5))
    changed[at : at + len(value)] = value
    with pytest.raises(HostError, match="superblock"):
        verity.read_superblock(bytes(changed))
    with pytest.raises(HostError, match="superblock"):
        verity.read_superblock(bytes(changed)[:100])
