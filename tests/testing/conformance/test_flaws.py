"""The suite itself: nothing in it fails without a reason, and nothing cannot fail."""

from __future__ import annotations

from tests.testing.conformance.answer_flaws import FLAWS as OF_ANSWERS
from tests.testing.conformance.batch_flaws import FLAWS as OF_BATCHES
from tests.testing.conformance.file_flaws import FLAWS as OF_FILES
from tests.testing.conformance.flawed import examined
from tests.testing.conformance.refusal_flaws import FLAWS as OF_REFUSALS
from tests.testing.conformance.validation_flaws import FLAWS as OF_INPUTS

from flowbed.testing.conformance import CHECKS


async def test_a_server_without_a_flaw_passes_everything() -> None:
    """The simulator of OpenAI's API passes every check, and none is skipped."""
    verdicts = await examined(None)
    assert set(verdicts.values()) == {"passed"}
    assert len(verdicts) == len(CHECKS)


def test_every_check_has_a_flaw_that_it_finds() -> None:
    """No check is there that cannot fail."""
    flaws = (OF_ANSWERS, OF_REFUSALS, OF_FILES, OF_BATCHES, OF_INPUTS)
    found = {check for each in flaws for _, wanted in each.values() for check in wanted}
    assert {check.run for check in CHECKS} == found
