# SPDX-License-Identifier: Apache-2.0
"""The appliance: what needs no booted machine."""
