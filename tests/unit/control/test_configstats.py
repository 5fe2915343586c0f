# SPDX-License-Identifier: Apache-2.0
"""The [stats] table: beyond loopback nothing is open, and every mistake has its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control import config
from gateway.control.configmodel import GatewayConfig
from gateway.errors import ConfigErrors
from tests.unit.control import samples

TOKEN = "0123456789abcdef"


def parse(folder: Path, table: str) -> GatewayConfig:
    return config.parse_gateway(f"{samples.GATEWAY}[stats]\n{table}", "g.toml", folder, {})


def mistakes(folder: Path, table: str) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as caught:
        parse(folder, table)
    return {error.key: str(error) for error in caught.value.errors}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN + "\n")
    for name in ("cert", "key", "ca"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text("PEM")
    return tmp_path


def test_on_by_default_and_on_loopback_alone(folder: Path) -> None:
    stats = parse(folder, "").stats
    assert stats.enabled and not stats.per_session and not stats.token
    assert [str(one) for one in stats.listen] == ["127.0.0.1:51821"]


@pytest.mark.parametrize("address", ["0.0.0.0:9", "[::]:9", "192.0.2.1:9", "[2001:db8::1]:9"])
def test_beyond_loopback_asks_for_a_token_or_a_certificate(folder: Path, address: str) -> None:
    listen = f'listen = ["127.0.0.1:9", "[::1]:9", "{address}"]\n'
    tls = 'tls_cert_file = "cert"\ntls_key_file = "key"\n'
    assert "stats.listen" in mistakes(folder, listen)
    assert "stats.listen" in mistakes(folder, listen + tls)
    assert not parse(folder, listen + tls + 'tls_client_ca_file = "ca"').warnings
    assert not parse(folder, listen + tls + 'token_file = "token"').warnings
    (warning,) = parse(folder, listen + 'token_file = "token"').warnings
    assert "in clear" in warning


def test_a_token_is_read_and_never_shown(folder: Path) -> None:
    stats = parse(folder, 'token_file = "token"').stats
    assert stats.token == TOKEN.encode() and TOKEN not in repr(stats)
    (folder / "token").chmod(0o644)
    found = mistakes(folder, 'token_file = "token"')
    assert "chmod 600" in found["stats.token_file"] and TOKEN not in found["stats.token_file"]


def test_the_key_of_a_listener_is_a_secret_and_its_certificate_is_none(folder: Path) -> None:
    table = 'tls_cert_file = "cert"\ntls_key_file = "key"\n'
    (folder / "cert").chmod(0o644)
    assert parse(folder, table).warnings == ()
    (folder / "key").chmod(0o644)
    assert "chmod 600" in mistakes(folder, table)["stats.tls_key_file"]


@pytest.mark.parametrize(
    "text", ["", "short", "a" * 600, "0123456789 abcdef", "0123456789abcdeé", "x\n" * 20]
)
def test_what_is_no_token_is_refused_unshown(folder: Path, text: str) -> None:
    (folder / "token").write_text(text)
    found = mistakes(folder, 'token_file = "token"')
    assert list(found) == ["stats.token_file"]
    assert not text or text not in found["stats.token_file"]


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('token_file = "absent"', "stats.token_file"),
        ('tls_cert_file = "cert"', "stats.tls_cert_file"),
        ('tls_client_ca_file = "ca"', "stats.tls_cert_file"),
        ('tls_cert_file = "cert"\ntls_key_file = "absent"', "stats.tls_key_file"),
        ('socket = "relative"', "stats.socket"),
        ('listen = ["localhost:80"]', "stats.listen[0]"),
        ('hosts = ["a b"]', "stats.hosts[0]"),
        ('hosts = ["http://a"]', "stats.hosts[0]"),
        ("port = 1", "stats.port"),
    ],
)
def test_mistakes_are_named(folder: Path, table: str, key: str) -> None:
    assert list(mistakes(folder, table)) == [key]


# --- who may act -------------------------------------------------------------------------------------------------


def operators(folder: Path, text: str, mode: int = 0o600) -> str:
    (folder / "ops").touch()
    (folder / "ops").write_text(text)
    (folder / "ops").chmod(mode)
    return 'operator_token_file = "ops"\n'


def test_operators_have_names_and_tokens_that_are_never_shown(folder: Path) -> None:
    table = operators(folder, f"# who may act\n\nalice {TOKEN}A\n  bob\t{TOKEN}B  \n{TOKEN}C\n")
    config = parse(folder, table)
    assert [(one.name, one.token.decode()[-1]) for one in config.stats.operators] == [
        ("alice", "A"),
        ("bob", "B"),
        ("operator", "C"),
    ]
    assert TOKEN not in repr(config.stats) and not config.warnings
    assert not config.stats.operator_certificates and not config.stats.open_health


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody\n",
        "short",
        "alice short",
        f"alice {TOKEN} more",
        f"a/b {TOKEN}",
        f"alice {TOKEN}é",
        f"alice {'x' * 513}",
        f"alice {TOKEN}\nalice {TOKEN}B",
        f"alice {TOKEN}\nbob {TOKEN}",
        f"{TOKEN}\n{TOKEN}B",
        "\n".join(f"n{number} {TOKEN}{number}" for number in range(65)),
    ],
)
def test_what_names_no_operator_is_refused_unshown(folder: Path, text: str) -> None:
    found = mistakes(folder, operators(folder, text))
    assert list(found) == ["stats.operator_token_file"]
    assert TOKEN not in found["stats.operator_token_file"]


def test_an_operator_s_token_is_nobody_else_s(folder: Path) -> None:
    table = operators(folder, TOKEN + "A", 0o644)
    assert "chmod 600" in mistakes(folder, table)["stats.operator_token_file"]
    both = operators(folder, TOKEN) + 'token_file = "token"'
    found = mistakes(folder, both)["stats.operator_token_file"]
    assert "only read" in found and TOKEN not in found


def test_a_token_of_an_operator_opens_no_address_for_reading(folder: Path) -> None:
    assert "stats.listen" in mistakes(folder, operators(folder, TOKEN + "A") + 'listen = ["0.0.0.0:9"]')
    assert "stats.listen" in mistakes(folder, 'open_health = true\nlisten = ["0.0.0.0:9"]')


def test_certificates_that_may_act_need_an_authority(folder: Path) -> None:
    tls = 'tls_cert_file = "cert"\ntls_key_file = "key"\n'
    names = 'operator_certificates = ["ops team"]\n'
    assert "stats.operator_certificates" in mistakes(folder, names)
    assert "stats.operator_certificates" in mistakes(folder, names + tls)
    assert "stats.operator_certificates[0]" in mistakes(folder, 'operator_certificates = [" "]')
    stats = parse(folder, names + tls + 'tls_client_ca_file = "ca"').stats
    assert stats.operator_certificates == {"ops team"}
