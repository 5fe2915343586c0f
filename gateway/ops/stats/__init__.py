# SPDX-License-Identifier: Apache-2.0
"""The stats endpoint: a gateway's state over HTTP, to read, and for operators to act."""
