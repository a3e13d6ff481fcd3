"""The suite itself: nothing in it fails without a reason, and nothing cannot fail."""

from __future__ import annotations

from tests.testing.conformance.answer_flaws import FLAWS as OF_ANSWERS
from tests.testing.conformance.flawed import examined
from tests.testing.conformance.refusal_flaws import FLAWS as OF_REFUSALS

from flowbed.testing.conformance import CHECKS


async def test_a_server_without_a_flaw_passes_everything() -> None:
    """The simulator of OpenAI's API passes every check, and none is skipped."""
    verdicts = await examined(None)
    assert set(verdicts.values()) == {"passed"}
    assert len(verdicts) == len(CHECKS)


def test_every_check_has_a_flaw_that_it_finds() -> None:
    """No check is there that cannot fail."""
    found = {check for _, wanted in (*OF_ANSWERS.values(), *OF_REFUSALS.values()) for check in wanted}
    assert {check.run for check in CHECKS} == found
