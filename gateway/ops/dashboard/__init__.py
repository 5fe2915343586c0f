# SPDX-License-Identifier: Apache-2.0
"""The page at / of the stats endpoint: a table for everybody, and what moves by itself where JavaScript runs."""
