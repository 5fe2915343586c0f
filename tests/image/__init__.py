# SPDX-License-Identifier: Apache-2.0
"""Boot tests of the appliance: the image runs in QEMU, its two network cards end in namespaces of a laboratory."""
