# SPDX-License-Identifier: Apache-2.0
"""The ruleset as nft takes it: replaced as a whole or not at all, and nothing else touched."""

from __future__ import annotations

import pytest

from gateway.errors import HostError
from gateway.net import nft
from tests.netns.net_bed import Bed, bed, in_namespace, needs_nft, needs_root

pytestmark = [needs_root, needs_nft]
__all__ = ["bed"]

FOREIGN = "table inet other { chain c { type filter hook input priority 0; policy accept; }; }"


def _listing(bed: Bed) -> str:
    return bed.inside("nft", "list", "ruleset")


def test_connections_are_tracked_only_where_pools_are_behind_it(bed: Bed) -> None:
    for pools, tracked in ((["10.9.0.0/24"], True), ([], False)):
        rules = nft.nat_ruleset("jv0", pools4=pools, clients=False)
        in_namespace(bed.machine, lambda rules=rules: nft.apply(rules))
        assert ("ct state" in _listing(bed)) is tracked
        assert "maxseg size" in _listing(bed)
        assert "drop" in _listing(bed)


def test_applying_again_replaces(bed: Bed) -> None:
    bed.inside("nft", FOREIGN)
    foreign = _listing(bed)
    rules = nft.nat_ruleset("jv0", pools4=["10.9.0.0/24"], pools6=["fd09::/64"], clients=False)
    in_namespace(bed.machine, lambda: nft.apply(rules))
    once = _listing(bed)
    assert once.count("masquerade") == 2
    in_namespace(bed.machine, lambda: nft.apply(rules))
    assert _listing(bed) == once
    in_namespace(bed.machine, lambda: nft.apply(nft.nat_ruleset("jv0", pools4=["10.8.0.0/24"])))
    assert "10.9.0" not in _listing(bed)
    assert "10.8.0.0/24" in _listing(bed)
    assert in_namespace(bed.machine, lambda: nft.remove("jv0")) is True
    assert in_namespace(bed.machine, lambda: nft.remove("jv0")) is False
    assert _listing(bed) == foreign


def test_a_ruleset_that_fails_changes_nothing(bed: Bed) -> None:
    in_namespace(bed.machine, lambda: nft.apply(nft.nat_ruleset("jv0", pools4=["10.9.0.0/24"])))
    before = _listing(bed)
    broken = nft.nat_ruleset("jv0", pools4=["10.8.0.0/24"])
    broken["nftables"].append(
        {"add": {"rule": {"family": "inet", "table": "absent", "chain": "c", "expr": []}}}
    )
    with pytest.raises(HostError, match=r"nft -j -f -: .*No such file or directory"):
        in_namespace(bed.machine, lambda: nft.apply(broken))
    assert _listing(bed) == before


@pytest.mark.parametrize("name", ["jv0", "wg-0", "wg.0", "a" * 15, "0"])
def test_every_allowed_interface_name_makes_a_table_nft_can_read_back(bed: Bed, name: str) -> None:
    in_namespace(bed.machine, lambda: nft.apply(nft.nat_ruleset(name, pools4=["10.9.0.0/24"])))
    bed.inside("nft", "list", "table", "inet", nft.table_name(name))
    text = _listing(bed)
    bed.inside("nft", f"flush ruleset; {text}")
    assert _listing(bed) == text


def test_client_rules_are_taken(bed: Bed) -> None:
    rules = nft.client_ruleset("jv0", fwmark=51820, addresses=["10.9.0.2/32", "fd09::2/128"])
    in_namespace(bed.machine, lambda: nft.apply(rules))
    assert "fib saddr type != local drop" in _listing(bed)
