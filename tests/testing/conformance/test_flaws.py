"""Each flaw of a server is found by the checks that are about it, and by no others."""

from __future__ import annotations

import random

import pytest
from tests.testing.conformance import answer_flaws, batch_flaws, file_flaws, refusal_flaws, validation_flaws
from tests.testing.conformance.flawed import LONG, examined

from flowbed.testing.conformance import CHECKS, batch_lines
from flowbed.testing.simulators import Fault

FLAWS = {
    (group, name): flaw
    for group, flaws in (
        ("embeddings", answer_flaws.FLAWS),
        ("embeddings", refusal_flaws.FLAWS),
        ("files", file_flaws.FLAWS),
        ("batches", batch_flaws.FLAWS),
        ("batches", validation_flaws.FLAWS),
    )
    for name, flaw in flaws.items()
}
OTHERS = 5  # checks of the group that have to pass, drawn for each flaw; all of them in the long form
DEPENDS_ON_ALL = {"what is known is charged nothing"}  # known is what other checks have sent


@pytest.mark.parametrize("others", [OTHERS, pytest.param(len(CHECKS), id="all", marks=pytest.mark.long)])
@pytest.mark.parametrize(("group", "name"), FLAWS)
async def test_checks_server_with_a_flaw_fail_only_where_they_are_about_it(
    group: str, name: str, others: int
) -> None:
    flaw, about_it = FLAWS[group, name]
    rest = [each.run for each in CHECKS if each.group == group and each.run not in about_it | LONG]
    count = len(rest) if name in DEPENDS_ON_ALL else min(others, len(rest))
    drawn = random.Random(name).sample(rest, count)
    verdicts = await examined(flaw, groups=(group,), runs={*about_it, *drawn})
    failed = {check for check, verdict in verdicts.items() if verdict == "failed"}
    assert failed == about_it, [check.__name__ for check in failed ^ about_it]
    assert {verdict for check, verdict in verdicts.items() if check not in about_it} == {"passed"}


async def test_checks_output_in_another_order_pass() -> None:
    """The order of a batch's output is not promised."""
    verdicts = await examined(Fault(kind="shuffled"), groups=("batches",))
    assert verdicts[batch_lines.answered] == "passed"
    assert set(verdicts.values()) == {"passed"}


async def test_checks_server_without_a_flaw_all_pass() -> None:
    verdicts = await examined(None)
    assert set(verdicts.values()) == {"passed"}
    assert len(verdicts) == len(CHECKS)


def test_every_check_has_a_flaw_that_it_finds() -> None:
    assert {check.run for check in CHECKS} == {check for _, about_it in FLAWS.values() for check in about_it}
