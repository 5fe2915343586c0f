# SPDX-License-Identifier: Apache-2.0
"""`make demo`: real traffic through a gateway, our client and a stock client, in network namespaces of
its own.
"""
