# SPDX-License-Identifier: Apache-2.0
"""The host: sockets, the TUN device, addresses, routes, rules, firewall, DNS, and the journal that undoes
them.

Rule: nothing here moves a packet. This folder opens, configures and restores; the data plane moves.
"""
