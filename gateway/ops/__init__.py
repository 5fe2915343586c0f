# SPDX-License-Identifier: Apache-2.0
"""What operators touch: the command line, diagnosis, statistics."""
