# SPDX-License-Identifier: Apache-2.0
"""Demonstration and measurements: demo (what it does), micro (what each part costs)."""
