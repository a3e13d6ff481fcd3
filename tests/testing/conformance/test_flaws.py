"""Each flaw of a server is found by the checks that are about it, and by no others."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from tests.testing.conformance import answer_flaws, batch_flaws, file_flaws, refusal_flaws, validation_flaws
from tests.testing.conformance.flawed import LONG, examined

from flowbed.testing.conformance import CHECKS
from flowbed.testing.conformance.checks import batch_lines, vector_stores
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
# Checks for each flaw, of those that are about it and of the group's others, which have to pass; the long form has all.
FEW = 2, 1
DEPENDS_ON_ALL = {"what is known is charged nothing"}  # known is what other checks have sent


def _drawn(most: int) -> dict[tuple[str, str], set[Any]]:
    """Draw checks that are about each flaw: those that were drawn least, which in the end are all."""
    flaws_of = Counter(check for _, about_it in FLAWS.values() for check in about_it)
    times = Counter[Any]()
    drawn = {}
    for key, (_, about_it) in FLAWS.items():
        least = sorted(about_it, key=lambda check: (times[check], flaws_of[check], check.__name__))
        drawn[key] = set(least[:most])
        times.update(drawn[key])
    return drawn


DRAWN = _drawn(FEW[0])


@pytest.mark.parametrize("few", [FEW, pytest.param((len(CHECKS),) * 2, id="all", marks=pytest.mark.long)])
@pytest.mark.parametrize(("group", "name"), FLAWS)
async def test_checks_server_with_a_flaw_fail_only_where_they_are_about_it(
    group: str, name: str, few: tuple[int, int]
) -> None:
    flaw, about_it = FLAWS[group, name]
    rest = [each.run for each in CHECKS if each.group == group and each.run not in about_it | LONG]
    all_of_them = few != FEW or name in DEPENDS_ON_ALL
    wanted = about_it if all_of_them else DRAWN[group, name]
    others = random.Random(name).sample(rest, len(rest) if all_of_them else min(few[1], len(rest)))
    verdicts = await examined(flaw, groups=(group,), runs={*wanted, *others})
    failed = {check for check, verdict in verdicts.items() if verdict == "failed"}
    assert failed == wanted, [check.__name__ for check in failed ^ wanted]
    assert {verdict for check, verdict in verdicts.items() if check not in wanted} <= {"passed"}


async def test_checks_output_in_another_order_pass() -> None:
    """The order of a batch's output is not promised."""
    verdicts = await examined(Fault(kind="shuffled"), runs=batch_lines.CHECKS)
    assert verdicts[batch_lines.answered] == "passed"
    assert set(verdicts.values()) == {"passed"}


def test_every_check_has_a_flaw_that_it_finds() -> None:
    of_stores = set(vector_stores.CHECKS)  # these have flaws of their own
    assert {check.run for check in CHECKS} - of_stores == {
        check for drawn in DRAWN.values() for check in drawn
    }
