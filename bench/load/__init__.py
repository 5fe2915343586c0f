# SPDX-License-Identifier: Apache-2.0
"""The load generator: many clients with keys of their own against one gateway."""
