# SPDX-License-Identifier: Apache-2.0
"""``jvpn peer``: identities of a gateway. The running gateway does the work; without one, peers.toml is changed here.

A private key made here is shown once, as part of the peer's own file, and kept nowhere.
"""

from __future__ import annotations

import functools
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from gateway.constants import DEFAULT_PORT
from gateway.control import configfields, keysfile
from gateway.control.wgquick import StockClient, wgquick_text
from gateway.errors import JumpError, UsageError
from gateway.ops.cli import complete, output
from gateway.ops.cli.options import (
    config_option,
    interface_option,
    json_option,
    socket_option,
    state_dir_option,
)
from gateway.ops.cli.output import note
from gateway.ops.cli.peertarget import Target
from gateway.ops.cli.qr import qr_text
from gateway.ops.cli.status import prefixes

_NO_PRIVATE_KEY: Final = "<the private key of this peer; it is not stored here>"
_HIDDEN: Final = "<hidden; --reveal shows it>"
_HOST_PREFIXES: Final = ("/32", "/128")
_LIST_HEADER: Final = ("NAME", "PUBLIC KEY", "ALLOWED IPS", "ENDPOINT", "DEFINED BY")
_NO_ENDPOINT: Final = "<the gateway's address>"
_existing: Final = click.argument("name", shell_complete=complete.peers)


@click.group()
def peer() -> None:
    """Add, list, show and remove the peers of a gateway.

    \b
    Examples:
      jvpn peer add phone --qr                      a new key pair, shown once as a QR code
      jvpn peer add laptop --psk > laptop.conf      a file for wg-quick or `jvpn connect`
      jvpn peer add office --public-key KEY --allowed-ip 10.99.0.9/32 --allowed-ip 192.168.7.0/24
      jvpn peer list
      jvpn peer show phone --qr
      jvpn peer remove phone
    """


def _with_target(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say where the peers are; ``command`` gets them as one ``target``."""

    @functools.wraps(command)
    def run(
        config_path: Path | None,
        state_dir: Path | None,
        interface: str | None,
        socket: Path | None,
        **rest: Any,
    ) -> None:
        command(target=Target(config_path, state_dir, interface, socket), **rest)

    wrapped: Callable[..., None] = run
    for option in (
        socket_option,
        interface_option,
        state_dir_option,
        config_option("The gateway's configuration, while none runs; default STATE/gateway.toml."),
    ):
        wrapped = option(wrapped)
    return wrapped


@dataclass(frozen=True, slots=True)
class _FileOptions:
    """How the peer's own file is written."""

    qr: bool
    gateway_endpoint: str
    routes: Sequence[str]


def _with_file(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of the peer's own file; ``command`` gets them as one ``file``."""

    @functools.wraps(command)
    def run(qr: bool, gateway_endpoint: str, routes: Sequence[str], **rest: Any) -> None:
        # Checked before anything happens: a mistake found after a key was made would lose the key.
        command(file=_FileOptions(qr, _endpoint(gateway_endpoint), _routes(routes)), **rest)

    wrapped: Callable[..., None] = run
    for option in (
        click.option("--qr", is_flag=True, help="Draw the file as a QR code for the WireGuard apps."),
        click.option(
            "--gateway-endpoint", default="", metavar="HOST:PORT", help="Where the peer finds this gateway."
        ),
        click.option(
            "--route", "routes", multiple=True, metavar="PREFIX", help="What the peer sends here. Repeatable."
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


@peer.command()
@click.argument("name")
@click.option(
    "--public-key", default="", metavar="KEY", help="The peer's own; without it a key pair is made here."
)
@click.option("--psk", is_flag=True, help="Add a preshared key, made here.")
@click.option(
    "--allowed-ip", "allowed_ips", multiple=True, metavar="PREFIX", help="Default: addresses from the pool."
)
@click.option(
    "--endpoint", default="", metavar="HOST:PORT", help="Where the gateway finds the peer; usually unknown."
)
@click.option("--keepalive", default="0s", metavar="DURATION", help="Sent by the gateway, such as 25s.")
@click.option("--roaming", type=click.Choice(["handshake", "wireguard", "never"]), default="handshake")
@click.option("--protocol", type=click.Choice(["auto", "jump", "wireguard"]), default="auto")
@_with_file
@_with_target
def add(target: Target, file: _FileOptions, name: str, public_key: str, psk: bool, **fields: Any) -> None:
    """Add a peer and print the file for its device. A private key made here is shown this once only."""
    private_key = b""
    if not public_key:
        private_key = keysfile.generate_private_key(secrets.token_bytes)
        public_key = keysfile.encode_key(keysfile.public_key(private_key))
    preshared = keysfile.encode_key(keysfile.generate_preshared_key(secrets.token_bytes)) if psk else ""
    request = {"name": name, "public_key": public_key, "preshared_key": preshared, **fields}
    document = target.ask("peer.add", request, create=True)
    document["peer"]["preshared_key"] = preshared
    text = _file_text(document, file, keysfile.encode_key(private_key) if private_key else _NO_PRIVATE_KEY)
    try:
        click.echo(text, nl=False)
        if file.qr:
            click.echo(qr_text(text, colour=output.coloured(sys.stdout)))
    except OSError as error:
        if not private_key:
            raise
        raise JumpError(
            f"the file could not be written ({error.strerror}), and its private key is kept nowhere: "
            f"`jvpn peer remove {name}`, then add it again"
        ) from None
    note(f'peer "{name}" has {", ".join(document["peer"]["allowed_ips"])}{_added_where(document)}')
    if private_key:
        note("the private key above is kept nowhere else: use the file now")


def _added_where(document: Mapping[str, Any]) -> str:
    return "; the running gateway serves it already" if document["source"] == "daemon" else ""


@peer.command()
@_existing
@click.option("--reveal", is_flag=True, help="Show the preshared key.")
@click.option(
    "--private-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Complete the file with it.",
)
@json_option
@_with_file
@_with_target
def show(
    target: Target, file: _FileOptions, name: str, reveal: bool, private_key_file: Path | None, as_json: bool
) -> None:
    """Print a peer's own file again. Its private key is a placeholder, because it is not stored here."""
    document = target.ask("peer.show", {"name": name, "reveal": reveal})
    if as_json:
        output.write_json(document)
        return
    private_key = _NO_PRIVATE_KEY
    if private_key_file is not None:
        private_key = keysfile.encode_key(_matching_key(private_key_file, document["peer"]))
    text = _file_text(document, file, private_key)
    click.echo(qr_text(text, colour=output.coloured(sys.stdout)) if file.qr else text, nl=file.qr)
    if private_key_file is None:
        note(
            "the private key is not stored here: put it in, or give --private-key-file"
            + ("; no app takes the code without it" if file.qr else "")
        )


def _matching_key(path: Path, described: Mapping[str, Any]) -> bytes:
    private_key = keysfile.read_key_file(path).key
    if keysfile.encode_key(keysfile.public_key(private_key)) != described["public_key"]:
        raise UsageError(f"{path} is not the private key of this peer")
    return private_key


@peer.command("list")
@json_option
@_with_target
def list_peers(target: Target, as_json: bool) -> None:
    """List all peers; what they are doing is in `jvpn status`."""
    document = target.ask("peer.list", {})
    if as_json:
        output.write_json(document)
    elif document["peers"]:
        click.echo(output.table(_LIST_HEADER, [_list_row(peer) for peer in document["peers"]]))
    else:
        click.echo("no peers; add one with `jvpn peer add NAME`")


def _list_row(described: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        described["name"],
        described["public_key"],
        prefixes(described["allowed_ips"]),
        described["endpoint"] or "-",
        "jvpn" if described["managed"] else "configuration",
    )


@peer.command()
@_existing
@_with_target
def remove(target: Target, name: str) -> None:
    """Remove a peer that `jvpn peer add` made. NAME may be its public key."""
    document = target.ask("peer.remove", {"name": name})
    note(f'peer "{document["peer"]["name"]}" is removed; its addresses are free again')


def _file_text(document: Mapping[str, Any], options: _FileOptions, private_key: str) -> str:
    described, gateway = document["peer"], document["gateway"]
    preshared = described.get("preshared_key") or (_HIDDEN if described["has_preshared_key"] else "")
    client = StockClient(
        private_key=private_key,
        addresses=tuple(text for text in described["allowed_ips"] if text.endswith(_HOST_PREFIXES)),
        gateway_public_key=gateway["public_key"],
        endpoint=_gateway_endpoint(options.gateway_endpoint or gateway["endpoint"], gateway["listen"]),
        allowed_ips=tuple(options.routes or gateway["routes"]),
        preshared_key=preshared,
        dns=tuple(gateway["dns"]),
        mtu=gateway["mtu"],
    )
    return wgquick_text(client)


def _routes(texts: Sequence[str]) -> list[str]:
    try:
        return [str(configfields.network(text)) for text in texts]
    except ValueError as error:
        raise UsageError(f"--route: {error}") from None


def _endpoint(text: str) -> str:
    try:
        return str(configfields.endpoint(text)) if text else ""
    except ValueError as error:
        raise UsageError(f"--gateway-endpoint: {error}") from None


def _gateway_endpoint(text: str, listen: Sequence[str]) -> str:
    """The endpoint that was given or configured, else a guess that is said to be one."""
    if text:
        return text
    port = listen[0].rpartition(":")[2] if listen else str(DEFAULT_PORT)
    host = own_address()
    guess = str(configfields.Endpoint(host, int(port))) if host else f"{_NO_ENDPOINT}:{port}"
    note(f"gateway.endpoint is not configured, so the file says {guess}; --gateway-endpoint sets it")
    return guess


def own_address() -> str:
    """The address this machine uses towards the Internet, '' without a route. Sends nothing."""
    for family, destination in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((destination, 9))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return ""
