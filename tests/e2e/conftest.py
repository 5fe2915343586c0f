# SPDX-License-Identifier: Apache-2.0
"""One laboratory per file: its namespaces are shared by the tests of that file, its processes are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.lab import Lab
from tests.net.tunnel import Site


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The laboratory."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    """Client, router, server and backend. The backend has no way back to a client: only NAT makes it answer."""
    made = Site.build(lab)
    made.backend.del_route("default", via="10.3.0.1")
    made.backend.del_route("default", via="fd03::1")
    return made
