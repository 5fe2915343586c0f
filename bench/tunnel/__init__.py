# SPDX-License-Identifier: Apache-2.0
"""`make bench-tunnel`: throughput, CPU and latency of a tunnel beside its peers, in network namespaces of its own."""
