# SPDX-License-Identifier: Apache-2.0
"""Every error the product raises on purpose, each with the exit code `jvpn` ends with.

An error's text says what is wrong and what to do about it; it never holds a secret.
"""

from __future__ import annotations

from typing import ClassVar


class JumpError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class CryptoError(JumpError):
    """A primitive refused its input, e.g. a low-order X25519 point (RFC 7748 §6.1)."""


class AuthError(CryptoError):
    """An authentication tag or a MAC did not verify."""


class ProtocolError(JumpError):
    """A message is malformed or not allowed at this point; the state did not change."""


class DataplaneError(JumpError):
    """The C data plane could not do what was asked (a table is full, a descriptor is bad)."""


class HostError(JumpError):
    """The machine refused a device, address, route, rule or socket."""


class UsageError(JumpError):
    """The command line makes no sense."""

    exit_code = 2


class ConfigError(JumpError):
    """One mistake in a configuration file.

    ``key`` is the dotted path (``peer[2].public_key``), ``line`` is 1-based or 0 when unknown.
    """

    exit_code = 2

    def __init__(self, file: str, key: str, line: int, problem: str) -> None:
        self.file, self.key, self.line, self.problem = file, key, line, problem
        where = f"{file}:{line}" if line else file
        super().__init__(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")


class ConfigErrors(ConfigError):
    """All mistakes of one configuration file, in file order."""

    def __init__(self, errors: tuple[ConfigError, ...]) -> None:
        first = errors[0]
        super().__init__(first.file, first.key, first.line, first.problem)
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class DaemonUnreachable(JumpError):
    """No running gateway or client answers on the control socket."""

    exit_code = 3


class NotFound(JumpError):
    """The named peer, session or path does not exist."""

    exit_code = 4


class Refused(JumpError):
    """A policy or a limit does not allow it."""

    exit_code = 5


class TryLater(JumpError):
    """Not now: the daemon is starting, draining or over a rate limit."""

    exit_code = 75
