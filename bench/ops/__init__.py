# SPDX-License-Identifier: Apache-2.0
"""What watching a gateway with thousands of sessions costs it."""
