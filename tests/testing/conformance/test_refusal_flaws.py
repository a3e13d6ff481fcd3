"""The suite finds flaws of what is refused, of models and of keys, by the checks that are about them alone."""

from __future__ import annotations

import pytest
from tests.testing.conformance.flawed import require_found
from tests.testing.conformance.refusal_flaws import FLAWS


@pytest.mark.parametrize("name", FLAWS)
async def test_a_flaw_is_found_by_the_checks_that_are_about_it(name: str) -> None:
    """Those checks fail that are about the flaw of a server, and all others pass."""
    await require_found(*FLAWS[name], groups=("embeddings",))
