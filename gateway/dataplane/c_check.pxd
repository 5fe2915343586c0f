# SPDX-License-Identifier: Apache-2.0
"""The one way from an error of C to an exception."""


cdef inline int check(int result, str what) except -1:
    """Pass on a result that is not negative; a negative errno becomes a DataplaneError that says what was attempted."""
    if result >= 0:
        return result
    import os

    from gateway.errors import DataplaneError

    raise DataplaneError(f"{what}: {os.strerror(-result)}")
