# SPDX-License-Identifier: Apache-2.0
"""`make bench-failover`: how long a failure of the active path is felt inside the tunnel, beside wireguard-go."""
