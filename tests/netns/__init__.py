# SPDX-License-Identifier: Apache-2.0
"""Real sockets, devices, routes and firewalls, in network namespaces."""
