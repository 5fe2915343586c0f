# SPDX-License-Identifier: Apache-2.0
"""What runs inside of the image: first boot, console, network, firewall, backup, reset, support."""
