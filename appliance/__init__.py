# SPDX-License-Identifier: Apache-2.0
"""The gateway as an image that boots: its build, what runs inside, updates."""
