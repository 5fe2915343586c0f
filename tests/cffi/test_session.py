# SPDX-License-Identifier: Apache-2.0
"""The rotation of keypairs in C against its model in Python, over any series of handshakes and packets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.noise.keypair import KeyAge, KeyRing
from tests.cffi.build import load

ffi, lib = load().ffi, load().lib
PLACES = ("current", "next", "previous", "older")
SECRET = ffi.new("uint8_t[]", bytes(32))


class Row:
    """One session of a table; it takes the steps that the model takes."""

    def __init__(self, table) -> None:
        self.table, self.row = table, lib.jv_table_add(table)

    def install(self, initiator: bool, now_ns: int) -> int:
        keys = ffi.new("struct jv_keys *")
        keys.send = keys.recv = SECRET
        keys.local_index = lib.jv_session_new_index(self.table, self.row)
        keys.initiator = initiator
        assert lib.jv_session_install(self.table, self.row, keys, now_ns) == 0
        return keys.local_index

    def packet(self, index: int, now_ns: int) -> None:
        """As rx.c does: the rotation first, then the keypair is the one heard last."""
        keypair = lib.jv_session_keypair(self.row, index)
        if not keypair:
            return
        if keypair == self.row.next:
            lib.jv_session_confirm(self.row, now_ns)
        keypair.heard_ns = now_ns

    def places(self) -> dict[str, int | None]:
        found = {place: getattr(self.row, place) for place in PLACES}
        return {place: keypair.local_index if keypair else None for place, keypair in found.items()}


def of_model(ring: KeyRing) -> dict[str, int | None]:
    found = {place: getattr(ring, place) for place in PLACES}
    return {place: key.local_index if key is not None else None for place, key in found.items()}


@given(st.lists(st.one_of(st.booleans(), st.integers(1, 5)), max_size=40))
def test_c_rotates_as_the_model_does(acts: list[bool | int]) -> None:
    """True and False: a handshake we began, or answered. A number: a packet under the keypair that many ago."""
    table = lib.jv_table_new(1, lib.JV_REPLAY_BITS_SMALL, bytes(32))
    try:
        row, ring, made = Row(table), KeyRing(), []
        for now_ns, act in enumerate(acts, start=1):
            if isinstance(act, bool):
                made.append(row.install(act, now_ns))
                ring.install(KeyAge(made[-1], act, now_ns))
            elif act <= len(made):
                row.packet(made[-act], now_ns)
                ring.confirm(made[-act])
            assert row.places() == of_model(ring)
    finally:
        lib.jv_table_free(table)
