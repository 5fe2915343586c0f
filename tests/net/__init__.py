# SPDX-License-Identifier: Apache-2.0
"""A small laboratory: namespaces, traffic, an impairment relay, and runners for wireguard-go and for our own programs.

Used by the tests, the demo and the benchmarks. Everything it creates is inside network namespaces of its
own and is written to a ledger first, so that nothing outlives its owner for longer than until the next
start.
"""
