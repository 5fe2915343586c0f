# SPDX-License-Identifier: Apache-2.0
"""The scenarios of a session's life on real sockets in namespaces, and the traps that need a wire."""
