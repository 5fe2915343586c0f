# SPDX-License-Identifier: Apache-2.0
"""Makes keys and bundles: ``python -m appliance.update.sign [keygen FILE | --key FILE SLOT_FOLDER -o FILE]``.

It refuses to sign a slot that no appliance would take: the tree is computed from the data before anything is signed.
The key is one line of base64, the 32 bytes that RFC 8032 calls the private key; FILE.pub is its public half, which goes
into the image. The same slot and key make the same bundle.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from appliance.update import slotcfg, verity
from appliance.update.bundle import ARCHITECTURE, FILES, PRODUCT, Flavour, Manifest, file_entry, head
from appliance.update.disk import CHUNK_BYTES
from gateway import crypto
from gateway.control import regularfile
from gateway.errors import HostError, JumpError, ProtocolError, Refused

_KEY_FILE_MAX_BYTES = 256


def make_key(path: Path, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Write a new key and its public half beside it; the public key. ``Refused`` when there is one."""
    seed = random_bytes(crypto.SEED_BYTES)
    public, _ = crypto.ed25519_seed_keypair(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists; a key is never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(seed) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    path.with_name(f"{path.name}.pub").write_bytes(base64.b64encode(public) + b"\n")
    return public


def read_key(path: Path) -> bytes:
    """32 bytes from a file of one line of base64, a seed or a public key. ``HostError`` for anything else."""
    try:
        data, _ = regularfile.read(path, _KEY_FILE_MAX_BYTES)
        key = base64.b64decode(data.strip(), validate=True)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None
    except (binascii.Error, ValueError):
        raise HostError(f"{path} is no key: one line of base64") from None
    if len(key) != crypto.KEY_BYTES:
        raise HostError(f"{path} is no key: it must hold 32 bytes")
    return key


def make_manifest(folder: Path, flavour: Flavour, floor: int | None = None) -> Manifest:
    """The manifest of the slot in a folder; its floor is its own serial unless a lower one is given.

    ``JumpError`` when the slot would not boot or not be taken.
    """
    config = slotcfg.decode((folder / "slot.cfg").read_text(encoding="ascii"))
    with (folder / "root.verity").open("rb") as hashes:
        tree = verity.Tree(verity.read_superblock(hashes.read(verity.BLOCK_BYTES)).salt)
        for chunk in _chunks(folder / "root.squashfs"):
            tree.update(chunk)
        root, levels = tree.finish()
        if root != config.roothash or hashes.read() != levels:
            raise ProtocolError(f"{folder}: root.squashfs, root.verity and slot.cfg do not belong together")
    files = tuple(file_entry(name, _chunks(folder / name)) for name in FILES)
    return Manifest(
        arch=ARCHITECTURE,
        files=files,
        flavour=flavour,
        floor=config.serial if floor is None else floor,
        product=PRODUCT,
        roothash=config.roothash,
        serial=config.serial,
        version=config.version,
    )


def write_bundle(
    folder: Path, output: Path, seed: bytes, flavour: Flavour = "cloud", floor: int | None = None
) -> Manifest:
    """Sign the slot in a folder; the output is replaced at once."""
    manifest = make_manifest(folder, flavour, floor)
    _, secret = crypto.ed25519_seed_keypair(seed)
    fresh = output.with_name(f".{output.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(head(manifest, secret))
            for entry in manifest.files:
                for chunk in _chunks(folder / entry.name):
                    file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)
    return manifest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m appliance.update.sign",
        description="Sign a slot as an update, or make a key: `keygen FILE` writes FILE and FILE.pub.",
    )
    parser.add_argument("slot", nargs="+", metavar="FOLDER", help="the slot of a build, build/image/slot")
    parser.add_argument("--key", type=Path, help="the secret key, as keygen wrote it")
    parser.add_argument(
        "-o", "--output", type=Path, help="the bundle, such as jumping-vpn-1.2.3-amd64.jvpnup"
    )
    parser.add_argument(
        "--flavour",
        choices=get_args(Flavour),
        default="cloud",
        help="the slot's kernel, VARIANT_ID of its os-release",
    )
    parser.add_argument(
        "--floor",
        type=int,
        metavar="SERIAL",
        help="appliances that confirmed this update never again take one below it; default: its own serial",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        if asked.slot[0] == "keygen" and len(asked.slot) == 2:
            print(base64.b64encode(make_key(Path(asked.slot[1]))).decode())
            return 0
        if len(asked.slot) != 1 or asked.key is None or asked.output is None:
            parser.error("needs --key FILE, one FOLDER and -o FILE, or: keygen FILE")
        manifest = write_bundle(
            Path(asked.slot[0]), asked.output, read_key(asked.key), asked.flavour, asked.floor
        )
        print(f"{asked.output}: version {manifest.version}, serial {manifest.serial}")
    except (JumpError, OSError) as error:
        print(f"sign: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, JumpError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
