# SPDX-License-Identifier: Apache-2.0
"""A signed bundle becomes the other slot, is tried once, and stays only if the gateway passes traffic there."""
