# SPDX-License-Identifier: Apache-2.0
"""What stands on the box's own screen and serial line: a status page for everybody, a menu for its administrator."""
