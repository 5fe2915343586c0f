# SPDX-License-Identifier: Apache-2.0
"""Host configuration: what needs no namespace."""
