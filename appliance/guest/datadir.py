# SPDX-License-Identifier: Apache-2.0
"""What the data partition must hold before anything else runs; the first boot makes it, each later one looks.

Rule: what is there is never replaced here. Randomness comes from the kernel's generator, which waits at an early boot
until it is seeded (getrandom(2)), so no key is made before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from appliance.guest import files, gatewayfile
from appliance.guest.host import Run, require
from appliance.guest.layout import Layout
from gateway.control import keysfile
from gateway.control.keysfile import RandomBytes

_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
TOKEN_BYTES: Final = 32


def prepare(layout: Layout, random_bytes: RandomBytes) -> list[str]:
    """Make what is missing; a sentence for each thing made."""
    _folders(layout)
    return [
        *_machine_id(layout, random_bytes),
        *_gateway_key(layout, random_bytes),
        *_stats_token(layout, random_bytes),
        *_gateway_file(layout, random_bytes),
    ]


def _folders(layout: Layout) -> None:
    for path, mode in (
        (layout.config, 0o755),
        (layout.secrets, 0o700),
        (layout.ssh, 0o700),
        (layout.network, 0o755),
        (layout.own, 0o700),
        (layout.data / "log", 0o750),
        (layout.runtime, 0o755),
    ):
        files.folder(path, mode)
    # Its owner is the service manager's to choose.
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)


def _machine_id(layout: Layout, random_bytes: RandomBytes) -> list[str]:
    """The one this boot has, so that the first boot and the second are one machine."""
    if _MACHINE_ID.match(files.read_text(layout.machine_id)):
        return []
    running = files.read_text(layout.running_machine_id)
    chosen = running if _MACHINE_ID.match(running) else random_bytes(16).hex()
    files.write(layout.machine_id, f"{chosen}\n", 0o444)
    return ["kept this machine's id"]


def _gateway_key(layout: Layout, random_bytes: RandomBytes) -> list[str]:
    if layout.gateway_key.exists():
        return []
    keysfile.write_key_file(layout.gateway_key, keysfile.generate_private_key(random_bytes))
    return ["made the gateway's key"]


def _stats_token(layout: Layout, random_bytes: RandomBytes) -> list[str]:
    if layout.stats_token.exists():
        return []
    files.write(layout.stats_token, random_bytes(TOKEN_BYTES).hex() + "\n", files.SECRET)
    return ["made the token of the stats endpoint"]


def _gateway_file(layout: Layout, random_bytes: RandomBytes) -> list[str]:
    if layout.gateway_file.exists():
        return []
    files.write(layout.gateway_file, gatewayfile.default_text(random_bytes))
    return ["wrote the default gateway.toml"]


def ensure_host_key(layout: Layout, run: Run) -> None:
    """The key of sshd, made when it is first needed: Ed25519 alone, RSA takes a slow machine a minute."""
    if layout.host_key.exists():
        return
    temporary = layout.ssh / "new"
    for path in (temporary, temporary.with_suffix(".pub")):
        path.unlink(missing_ok=True)
    require(run, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "jumping-vpn", "-f", str(temporary)])
    _move(temporary.with_suffix(".pub"), layout.host_key.with_suffix(".pub"), 0o644)
    _move(temporary, layout.host_key, files.SECRET)


def _move(source: Path, target: Path, mode: int) -> None:
    """Durably: what ssh-keygen writes is not synced."""
    files.write(target, source.read_bytes(), mode)
    source.unlink()
