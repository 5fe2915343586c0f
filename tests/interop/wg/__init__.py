# SPDX-License-Identifier: Apache-2.0
"""Our gateway and our client against stock wireguard-go."""
