# SPDX-License-Identifier: Apache-2.0
"""Composition: configuration, peers, the control socket, and the daemons that tie the layers together."""
