# SPDX-License-Identifier: Apache-2.0
"""What the machine refused, in one sentence, with what to do about it."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from gateway.errors import HostError

NEEDS_ADMIN: Final = "run as root or give the process CAP_NET_ADMIN"
INTERFACE_NAME_MAX: Final = 15  # IFNAMSIZ - 1

_REMEDIES: Final = {
    errno.EPERM: NEEDS_ADMIN,
    errno.EACCES: NEEDS_ADMIN,
    errno.EROFS: "the file system is read-only here; set it from outside (container options, sysctl.d)",
    errno.ENODEV: "the interface does not exist",
    errno.ENETUNREACH: "no route leads there; check the network connection",
    errno.ENETDOWN: "the interface is down",
    errno.EOPNOTSUPP: "this kernel lacks the feature",
    errno.EAFNOSUPPORT: "this kernel has no support for the address family (is IPv6 switched off?)",
}


def refused(what: str, error: OSError, remedy: str = "") -> HostError:
    """The error to raise when the kernel refused ``what``; ``remedy`` wins over the errno's own."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = remedy or _REMEDIES.get(error.errno or 0, "")
    return HostError(f"{what}: {reason}; {advice}" if advice else f"{what}: {reason}")


def check_interface_name(name: str) -> str:
    """The name, or HostError. Stricter than the kernel: the name also becomes a file and a firewall table."""
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{INTERFACE_NAME_MAX - 1}}}", name):
        raise HostError(
            f"interface name {name!r}: use 1 to {INTERFACE_NAME_MAX} letters, digits, '_', '.' or '-', "
            "starting with a letter, digit or '_'"
        )
    return name
