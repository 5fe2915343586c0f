# SPDX-License-Identifier: Apache-2.0
"""user-data: what it may say, and that every mistake is told with its line, its key and what to write."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.guest import document, password
from appliance.guest.settings import Link, Settings
from gateway.errors import ConfigErrors

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3ZRVYx4VYx4VYx4VYx4VYx4VYx4VYx4VYx4VYx4VYx me@here"
WHOLE = f"""\
#jvpn-config
[appliance]
hostname = "gw-test"
reapply = true
ssh_keys = ["{KEY}"]
stats_token = "0123456789abcdef"
management = ["lan", "tunnel"]
ntp = ["ntp.example.net", "2001:db8::7"]

[network.wan]
match = "52-54-00-00-00-01"
address = "192.0.2.10/24"
gateway = "192.0.2.1"
dns = ["9.9.9.9"]

[network.lan]
match = "ens4"
address = ["198.51.100.1/24", "fd00::1/64"]

[gateway]
endpoint = "vpn.example.net:51820"

[policy.session]
transport_lost_ttl = "10m"

[[peer]]
name = "phone"
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        document.parse(text)
    return [str(error) for error in caught.value.errors]


def test_a_whole_document() -> None:
    found = document.parse(WHOLE)
    assert found.reapply
    assert found.stats_token == "0123456789abcdef"
    assert found.settings == Settings(
        hostname="gw-test",
        ssh_keys=(KEY,),
        management=("lan", "tunnel"),
        ntp=("ntp.example.net", "2001:db8::7"),
        links=(
            Link("wan", "52:54:00:00:00:01", ("192.0.2.10/24",), ("192.0.2.1",), ("9.9.9.9",), dhcp=False),
            Link("lan", "ens4", ("198.51.100.1/24", "fd00::1/64"), dhcp=False),
        ),
    )


def test_the_gateways_tables_keep_their_lines() -> None:
    rest = document.parse(WHOLE).gateway_text.split("\n")
    whole = WHOLE.split("\n")
    kept = {number: line for number, line in enumerate(rest) if line and not line.startswith("#")}
    assert all(whole[number] == line for number, line in kept.items())
    assert "hostname" not in "".join(rest)
    assert "[policy.session]" in rest and "[[peer]]" in rest


def test_without_tables_of_the_gateway_there_is_no_text_for_it() -> None:
    assert document.parse("#jvpn-config\n[appliance]\nhostname = 'a'\n").gateway_text == ""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            '[appliance]\nhostnam = "a"',
            'user-data:3: appliance.hostnam: unknown key; did you mean "hostname"?',
        ),
        ('[appliance]\nhostname = "A_b"', "user-data:3: appliance.hostname: 'A_b' is not a host name"),
        ("[appliance]\nreapply = 1", "user-data:3: appliance.reapply: must be true or false"),
        ('[appliance]\nssh_keys = ["x"]', "user-data:3: appliance.ssh_keys[0]: not a public key"),
        ('[appliance]\nstats_token = "short"', "user-data:3: appliance.stats_token: must be 16 to 512"),
        (
            '[appliance]\nmanagement = ["wan"]',
            'user-data:3: appliance.management[0]: must be "lan" or "tunnel"',
        ),
        ('[appliance]\nprivate_key = "no"', "user-data:3: appliance.private_key: not a WireGuard key"),
        (
            '[appliance]\nadmin_password_hash = "secret"',
            "user-data:3: appliance.admin_password_hash: not an Argon2id",
        ),
        ("[network.wam]\ndhcp = true", "user-data:2: network.wam: must be wan, lan, or wan2"),
        ('[network.wan]\nadress = "1.2.3.4/24"', 'unknown key; did you mean "address"?'),
        ('[network.wan]\naddress = "1.2.3.4"', "user-data:3: network.wan.address"),
        ('[network.wan]\naddress = "192.0.2.2/24"\ngateway = "10.0.0.1"', "10.0.0.1 is in no network of"),
        (
            '[network.wan]\nmatch = "a"\n[network.lan]\nmatch = "a"',
            "user-data:5: network.lan.match: a is another",
        ),
        ("[network.wan]\nmtu = 100", "user-data:3: network.wan.mtu"),
        ("network = 3", "user-data:2: network: must be tables"),
        ("[appliance\n", "user-data:2"),
        (
            'appliance = {hostname = "a"}\n[gateway]\n',
            "write [appliance] and [network.…] as tables of their own",
        ),
    ],
)
def test_every_mistake_says_where_and_what(lines: str, said: str) -> None:
    found = mistakes(f"#jvpn-config\n{lines}\n")
    assert any(said in one for one in found), found


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes('#jvpn-config\n[appliance]\nhostname = "_"\nreapply = 1\n[network.x]\n')) == 3


def test_a_header_inside_of_a_text_of_several_lines_is_noticed() -> None:
    text = '#jvpn-config\n[gateway]\nendpoint = """\n[appliance]\n"""\n'
    assert "write [appliance]" in mistakes(text)[0]


def test_no_secret_is_in_a_message_or_a_repr() -> None:
    text = (
        '#jvpn-config\n[appliance]\nadmin_password_hash = "hunter2hunter2"\nprivate_key = "hunter3hunter3"\n'
    )
    assert "hunter" not in "".join(mistakes(text))
    assert "0123456789" not in repr(document.parse(WHOLE))


def test_another_first_line_is_not_ours() -> None:
    assert "the first line must be #jvpn-config" in mistakes("[appliance]\n")[0]
    assert document.is_ours("\ufeff#jvpn-config \r\n[appliance]\n")


@given(st.text(max_size=300))
def test_whatever_is_in_it_only_mistakes_come_out(text: str) -> None:
    with contextlib.suppress(ConfigErrors):
        document.parse(f"#jvpn-config\n{text}")


# --- passwords ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_price")
def test_a_password_is_known_again_and_no_other() -> None:
    hash_ = password.hashed("correct horse")
    assert password.check_hash(hash_) == hash_
    assert password.verify(hash_, "correct horse")
    assert not password.verify(hash_, "correct hors")
    assert not password.verify(hash_, "")
    assert password.hashed("correct horse") != hash_


def test_a_hash_that_would_take_the_machine_down_is_refused() -> None:
    hash_ = password.hashed("correct horse").replace("m=8,", "m=4194304,")
    with pytest.raises(ValueError, match="needs too much"):
        password.check_hash(hash_)
    assert not password.verify(hash_, "correct horse")


@pytest.mark.parametrize("text", ["", "seven77", "x" * 513])
def test_short_and_endless_passwords_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        password.acceptable(text)
