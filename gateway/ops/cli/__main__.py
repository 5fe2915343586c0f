# SPDX-License-Identifier: Apache-2.0
"""``python -m gateway.ops.cli`` is ``jvpn``."""

from __future__ import annotations

from gateway.ops.cli.main import main

main()
