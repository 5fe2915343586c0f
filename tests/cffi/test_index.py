# SPDX-License-Identifier: Apache-2.0
"""Receiver indices: a bijection between 32 bits and (slot, generation), different for every key."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.cffi.build import load

ffi, lib = load().ffi, load().lib
seeds = st.binary(min_size=32, max_size=32)


def key_of(seed: bytes):
    key = ffi.new("struct jv_index_key *")
    lib.jv_index_key_init(key, seed)
    return key


def decode(key, index: int) -> tuple[int, int]:
    slot, generation = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    lib.jv_index_decode(key, index, slot, generation)
    return slot[0], generation[0]


@given(seeds, st.integers(0, 2**20 - 1), st.integers(0, 2**12 - 1))
def test_decodes_what_it_encoded(seed: bytes, slot: int, generation: int) -> None:
    key = key_of(seed)
    assert decode(key, lib.jv_index_encode(key, slot, generation)) == (slot, generation)


@given(seeds, st.integers(0, 2**32 - 1))
def test_every_index_means_one_pair(seed: bytes, index: int) -> None:
    key = key_of(seed)
    slot, generation = decode(key, index)
    assert slot < 2**20 and generation < 2**12
    assert lib.jv_index_encode(key, slot, generation) == index


@given(seeds)
def test_neighbours_do_not_look_alike(seed: bytes) -> None:
    key = key_of(seed)
    indices = [lib.jv_index_encode(key, slot, 0) for slot in range(256)]
    # 256 draws of 65,536 values: a collision or none, as a rule
    assert len({i >> 16 for i in indices}) > 200
    assert not all(a < b for a, b in pairwise(indices))
