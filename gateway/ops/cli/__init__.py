# SPDX-License-Identifier: Apache-2.0
"""The ``jvpn`` command. A sub-command's module is imported only when that command runs."""
