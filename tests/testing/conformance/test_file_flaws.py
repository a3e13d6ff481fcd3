"""The suite finds flaws of files by the checks that are about them, and by no others."""

from __future__ import annotations

import pytest
from tests.testing.conformance.file_flaws import FLAWS
from tests.testing.conformance.flawed import require_found


@pytest.mark.parametrize("name", FLAWS)
async def test_a_flaw_is_found_by_the_checks_that_are_about_it(name: str) -> None:
    """Those checks of files fail that are about the flaw of a server, and all others pass."""
    await require_found(*FLAWS[name], groups=("files",))
