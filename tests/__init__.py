# SPDX-License-Identifier: Apache-2.0
"""Tests: unit, netns (real sockets in network namespaces), interop (against other implementations), e2e."""
