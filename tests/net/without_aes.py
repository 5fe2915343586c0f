# SPDX-License-Identifier: Apache-2.0
"""``jvpn`` on a machine without AES instructions: the question is answered with no, everything else is as it is."""

from __future__ import annotations

from gateway import crypto
from gateway.control import keeperbase
from gateway.ops.cli.main import main


def features() -> crypto.SodiumFeatures:
    """Of the libsodium in use, on such a machine."""
    return crypto.sodium_features()._replace(aes256gcm=False)


if __name__ == "__main__":
    keeperbase.sodium_features = features  # type: ignore[attr-defined]
    main()
