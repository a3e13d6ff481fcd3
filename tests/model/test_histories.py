"""Stored histories end well, and go wrong where the safety that protects them is switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.model import safeties
from tests.model.bed import READ, WrongError
from tests.model.machine import DAY, LONG, STOPS, Model
from tests.support.world import LISTED

from flowbed import telemetry
from flowbed.lanes.claims import CLAIM

if TYPE_CHECKING:
    from collections.abc import Callable

    Steps = list[tuple[Any, ...]]

A = (LISTED, "a")  # each history begins with this document, whose text is "one"
COMMIT_OVERTAKEN = [
    ("begun", "fetch"),
    ("begun", "embed", telemetry.RUN_RECORDED),
    ("begun", "commit", READ),
    ("begun", "work"),
    ("go_on", 0, False),
]
FETCH_OVERTAKEN = [
    ("begun", "fetch", telemetry.BATCH_WRITTEN),
    ("edit", A, "two"),
    ("begun", "work"),
    ("go_on", 0, False),
    ("begun", "work"),
]
DELTA_OLDER_THAN_TOMBSTONE = [
    ("begun", "work"),
    ("edit", A, "two"),
    ("begun", "fetch"),
    ("begun", "embed", telemetry.DELTA_WRITTEN),
    ("edit", A, None),
    ("begun", "work"),
    ("begun", "compact"),
    ("go_on", 0, False),
]
EDITED_TWICE = [("begun", "work"), ("edit", A, "two"), ("begun", "work")]
COMMIT_AFTER_ROLLBACK = [*EDITED_TWICE, ("roll_back", 1), ("begun", "commit")]
EDIT_AFTER_ROLLBACK = [
    ("edit", A, LONG),
    ("begun", "work"),
    ("edit", A, "one"),
    ("begun", "work"),
    ("roll_back", 1),
    ("edit", A, "two"),
    ("begun", "work"),
]
FETCH_OVERTAKEN_BY_ROLLBACK = [
    ("edit", A, LONG),
    ("begun", "work"),
    ("edit", A, "one"),
    ("begun", "work"),
    ("edit", A, "two"),
    ("begun", "fetch", telemetry.BATCH_WRITTEN),
    ("roll_back", 1),
    ("go_on", 0, False),
]
# Each safety with a history that goes wrong without it.
PROTECTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Steps]] = {
    "primary key": (safeties.without_primary_key, COMMIT_OVERTAKEN),
    "conditional version assignment": (safeties.without_conditional_versions, FETCH_OVERTAKEN),
    "tombstone retention": (safeties.without_tombstone_retention, DELTA_OLDER_THAN_TOMBSTONE),
    "run id by content": (safeties.without_runs_named_by_content, EDITED_TWICE),
    "reverted runs ignored": (safeties.without_ignoring_reverted_runs, COMMIT_AFTER_ROLLBACK),
    "documents undone whole": (safeties.without_undoing_whole_documents, EDIT_AFTER_ROLLBACK),
    "fetches restarted by rollbacks": (safeties.without_restarting_fetches, FETCH_OVERTAKEN_BY_ROLLBACK),
}
# Histories that went wrong once, and are none of the above.
REPAIRED: dict[str, Steps] = {
    "a failed fetch leaves a batch file, and a document gets the same text": [
        ("fail", "create", "after"),
        ("begun", "fetch"),
        ("edit", A, "one"),
        ("begun", "work"),
    ],
    "a commit is overtaken by another and then by a rollback": [
        ("begun", "work"),
        ("edit", A, "two"),
        ("begun", "fetch"),
        ("begun", "embed", telemetry.RUN_RECORDED),
        ("begun", "commit", READ),
        ("go_on", 0, False),
        ("roll_back", 1),
        ("go_on", 0, False),
    ],
    "a process sleeps for a month over a delta": [
        ("begun", "fetch"),
        ("begun", "embed", telemetry.DELTA_WRITTEN),
        ("wait", 1),
        ("edit", A, None),
        ("begun", "work"),
        ("wait", 31 * DAY),
        ("begun", "compact"),
        ("go_on", 0, False),
    ],
    "a claim runs out before its delta is recorded": [
        ("begun", "fetch"),
        ("begun", "embed", telemetry.DELTA_WRITTEN),
        ("wait", CLAIM / 1e6 + 1),
        ("edit", A, None),
        ("begun", "work"),
        ("go_on", 0, False),
    ],
}


def replay(steps: Steps) -> None:
    model = Model()
    try:
        model.begin(points=[0] * len(STOPS), text="one")
        for step in steps:
            model.happen(step)
            model.look()
            model.look_into_the_ledger()
    finally:
        model.teardown()


@pytest.mark.parametrize("name", REPAIRED)
def test_history_that_went_wrong_once_ends_well(name: str) -> None:
    replay(REPAIRED[name])


@pytest.mark.parametrize("name", PROTECTED)
def test_history_with_all_safeties_ends_well(name: str) -> None:
    replay(PROTECTED[name][1])


@pytest.mark.parametrize(("switch_off", "steps"), PROTECTED.values(), ids=PROTECTED)
def test_history_without_its_safety_is_found_wrong(
    switch_off: Callable[[pytest.MonkeyPatch], None], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off(monkeypatch)
    with pytest.raises(WrongError):
        replay(steps)
