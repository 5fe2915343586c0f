# SPDX-License-Identifier: Apache-2.0
"""The build of the image, from Debian's packages and our own to files that boot. It runs on the builder only."""
