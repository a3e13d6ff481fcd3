"""The suite finds flaws of batches by the checks that are about them, and by no others."""

from __future__ import annotations

import pytest
from tests.testing.conformance.batch_flaws import FLAWS as OF_BATCHES
from tests.testing.conformance.flawed import examined, require_found
from tests.testing.conformance.validation_flaws import FLAWS as OF_INPUTS

from flowbed.testing.conformance import batch_lines
from flowbed.testing.simulators import Fault

FLAWS = {**OF_BATCHES, **OF_INPUTS}


@pytest.mark.parametrize("name", FLAWS)
async def test_a_flaw_is_found_by_the_checks_that_are_about_it(name: str) -> None:
    """Those checks of batches fail that are about the flaw of a server, and all others pass."""
    await require_found(*FLAWS[name], groups=("batches",))


async def test_the_order_of_an_output_is_its_own() -> None:
    """A server whose output is in another order than its input passes: nobody has promised one."""
    verdicts = await examined(Fault(kind="shuffled"), groups=("batches",))
    assert verdicts[batch_lines.answered] == "passed"
    assert set(verdicts.values()) == {"passed"}
