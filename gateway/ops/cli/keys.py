# SPDX-License-Identifier: Apache-2.0
"""``jvpn keys``: WireGuard keys, compatible with ``wg genkey``, ``wg pubkey`` and ``wg genpsk``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Final

import click

from gateway.control import keysfile
from gateway.errors import UsageError

_INPUT_MAX: Final = 4096
_output_option = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the key to a new file of mode 0600 instead.",
)


@click.group()
def keys() -> None:
    """Make keys.

    \b
    Examples:
      jvpn keys gen -o gateway.key        a private key in a file; prints the public key
      jvpn keys gen | jvpn keys pub       the WireGuard way
      jvpn keys psk -o phone.psk
    """


@keys.command()
@_output_option
def gen(output: Path | None) -> None:
    """A new private key. With -o it stays in the file, and its public key is printed."""
    private_key = keysfile.generate_private_key(secrets.token_bytes)
    if output is None:
        click.echo(keysfile.encode_key(private_key))
        return
    keysfile.write_key_file(output, private_key)
    click.echo(keysfile.encode_key(keysfile.public_key(private_key)))


@keys.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def pub(file: Path | None) -> None:
    """The public key of the private key in FILE, or on standard input."""
    if file is not None:
        private_key = keysfile.read_key_file(file).key
    else:
        try:
            private_key = keysfile.decode_key(sys.stdin.read(_INPUT_MAX).strip())
        except ValueError as error:  # also text that is not UTF-8
            problem = "not text" if isinstance(error, UnicodeError) else str(error)
            raise UsageError(f"standard input: {problem}") from None
    click.echo(keysfile.encode_key(keysfile.public_key(private_key)))


@keys.command()
@_output_option
def psk(output: Path | None) -> None:
    """A new preshared key."""
    key = keysfile.generate_preshared_key(secrets.token_bytes)
    if output is None:
        click.echo(keysfile.encode_key(key))
    else:
        keysfile.write_key_file(output, key)
