# SPDX-License-Identifier: Apache-2.0
"""Hostile files: whatever the text, the outcome is a configuration or ``ConfigErrors`` within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import configfields, configreport
from gateway.control.config import load, parse_client, parse_gateway
from gateway.errors import ConfigErrors
from tests.unit.control.samples import CLIENT, GATEWAY, WGQUICK, peer

PARSERS: list[Callable[..., Any]] = [parse_gateway, parse_client]

HOSTILE = {
    "nul": "\0",
    "nul in a string": GATEWAY + 'interface = "a\0b"\n',
    "escaped nul": GATEWAY + 'interface = "a\\u0000b"\n',
    "nul in a path": '[gateway]\nprivate_key_file = "a\\u0000b"\n',
    "deep lists": "a = " + "[" * 50_000,
    "deep closed lists": "a = " + "[" * 5_000 + "]" * 5_000,
    "deep tables": "a = " + "{a=" * 50_000,
    "deep keys": ".".join("a" * 2_000) + " = 1",
    "huge number": "a = " + "9" * 100_000,
    "huge number in place": GATEWAY + "mtu = " + "9" * 4_000 + "\n",
    "huge float": GATEWAY + "mtu = 1e400\n",
    "long name": GATEWAY + f'interface = "{"x" * 1_000_000}"\n',
    "long key": f"{'k' * 1_000_000} = 1\n",
    "long line of wg-quick": f"[Interface]\nAddress = {'1,' * 100_000}\n",
    "many sections": "[Interface]\n" + "[Peer]\n" * 2_000,
    "surrogate": GATEWAY + 'interface = "\\ud800"\n',
    "date": GATEWAY + "mtu = 1979-05-27\n",
    "bad date": GATEWAY + "mtu = 1979-99-27\n",
    "a directory as key": '[gateway]\nprivate_key_file = "/"\n',
    "a device as key": '[gateway]\nprivate_key_file = "/dev/zero"\n',
    "a device as psk": GATEWAY + peer(3, more='preshared_key_file = "/dev/zero"\n'),
    "right-to-left": GATEWAY + 'interface = "\u202egnp"\n',
}


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_refused(parse: Callable[..., Any], text: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(text, "x.toml", environ={})
    assert len(caught.value.errors) <= configreport.REPORTED_MAX
    assert all(len(error.problem) < 2_000 for error in caught.value.errors)


def test_a_file_wrong_everywhere_is_cut() -> None:
    text = GATEWAY + "".join(f"k{number} = 1\n" for number in range(5_000))
    with pytest.raises(ConfigErrors) as caught:
        parse_gateway(text)
    assert len(caught.value.errors) == configreport.REPORTED_MAX


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # all of it a hole
    with pytest.raises(ConfigErrors, match="larger than"):
        load(path)


GRAMMAR = """
[gateway] [client] [[peer]] [[gateway]] [Interface] [Peer] mtu listen allowed_ips public_key Address PublicKey
= = = "10.0.0.1/32" [ ] { } 1 " , # é"""
tokens = st.sampled_from([*GRAMMAR.split(), "\0", "\n", "\n", GATEWAY, CLIENT, WGQUICK, peer(3)])


@given(st.lists(tokens, max_size=15).map("".join))
def test_random_programs_of_the_grammar(text: str) -> None:
    for parse in PARSERS:
        with contextlib.suppress(ConfigErrors):
            parse(text, "x", environ={})


@given(st.text(max_size=200))
def test_random_text(text: str) -> None:
    for parse in PARSERS:
        with contextlib.suppress(ConfigErrors):
            parse(text, "x", environ={})


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["gateway", "pool", "peer", "nat", "control", "x"]), json_values))
def test_documents_of_every_shape_are_walked(document: dict[str, Any]) -> None:
    from gateway.control.configschema import GatewayFile

    problems = configreport.Problems("x", "")
    found = configreport.decode(document, GatewayFile, "", problems)
    assert isinstance(found, GatewayFile)
    assert isinstance(found.gateway.mtu, int)


FIELDS: list[Callable[[str], object]] = [
    configfields.duration_ns,
    configfields.keepalive_s,
    configfields.endpoint,
    configfields.listen,
    configfields.address,
    configfields.interface_address,
    configfields.network,
    configfields.masked_network,
    configfields.interface_name,
    configfields.peer_name,
    configfields.search_domain,
    configfields.table,
    configfields.port,
]


@pytest.mark.parametrize("convert", FIELDS, ids=lambda field: field.__name__)
@given(text=st.one_of(st.text(max_size=80), st.from_regex(r"[0-9a-f:.%/\[\]٣]{0,40}")))
def test_fields_give_a_value_or_a_short_problem(convert: Callable[[str], object], text: str) -> None:
    problem = ""
    try:
        convert(text)
    except ValueError as error:
        problem = str(error)
    assert len(problem) < 1_000


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("300ms", 300_000_000),
        ("25s", 25 * 10**9),
        ("5m", 300 * 10**9),
        ("8h", 28_800 * 10**9),
    ],
)
def test_durations(text: str, expected_ns: int) -> None:
    assert configfields.duration_ns(text) == expected_ns


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1.5s", "-1s", "1 s", "1S", "٣s", "1s\n", "1us", "9999999999999s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        configfields.duration_ns(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.example:1", "a.example", 1),
        ("192.0.2.1:65535", "192.0.2.1", 65535),
        ("[2001:db8::1]:1", "2001:db8::1", 1),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("a_b-c.example.:1", "a_b-c.example.", 1),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    found = configfields.endpoint(text)
    assert (found.host, found.port) == (host, port)
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", ":1", "a:", "a:0", "a:65536", "a:١", "a b:1", "[::1:1", "::1]:1", "[a]b:1", "-a:1", "a:+1"],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        configfields.endpoint(text)
