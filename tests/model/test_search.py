"""In random histories the index ends as what the sources hold, and is never wrong on the way.

The short searches run with every change. The long ones, which also search for histories that need each safety, run with
`make torture`.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model import safeties
from tests.model.bed import READ, WrongError
from tests.model.machine import Model
from tests.support.servers.s3 import REGION, variables

from flowbed import telemetry
from flowbed.storage import open_store
from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers.s3 import S3Server

STEPS_EACH = 30
MOST_HISTORIES = 500  # to find one that needs a safety; most are within the first ten
S3_FAULTS = [
    S3Fault(probability=0.02, after=INTERNAL_ERROR),  # done, and reported as failed
    S3Fault(probability=0.02, after=CUT),
    S3Fault(probability=0.02, before=SLOW_DOWN),
    S3Fault(probability=0.02, before=CUT),
]


def search(model: type[Model], examples: int, **options: object) -> None:
    """Run random histories, until one fails."""
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_EACH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,  # type: ignore[arg-type]
        ),
    )


@pytest.mark.parametrize("examples", [10, pytest.param(2_000, marks=pytest.mark.long)])
def test_index_random_histories_ends_as_what_the_sources_hold(examples: int) -> None:
    """Fetches, commits, compactions, rollbacks, kills and store faults may overtake each other in any order."""
    search(Model, examples)


@pytest.mark.parametrize("examples", [2, pytest.param(200, marks=pytest.mark.long)])
def test_index_in_s3_random_histories_ends_as_what_the_sources_hold(
    examples: int, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of the store and of Lance also fail, are answered wrongly, or are cut off."""
    places = count()
    with S3Proxy(s3_server.url) as proxy:
        for name, value in variables(proxy.url).items():
            monkeypatch.setenv(name, value)
        options = {"endpoint": proxy.url, "region": REGION}

        class InS3(Model):
            place = staticmethod(
                lambda folder: open_store(f"s3://bucket/model-{next(places)}", folder=folder, options=options)
            )
            disturb = staticmethod(lambda on: proxy.order(*(S3_FAULTS if on else ())))

        search(InS3, examples)


@pytest.mark.long
@pytest.mark.parametrize(
    ("switch_off", "overtaken", "besides"),
    [
        (safeties.without_primary_key, ("commit", READ), "work"),
        (safeties.without_conditional_versions, ("fetch", telemetry.BATCH_WRITTEN), "work"),
        (safeties.without_tombstone_retention, ("embed", telemetry.DELTA_WRITTEN), "work compact"),
        (safeties.without_runs_named_by_content, ("embed", telemetry.DELTA_WRITTEN), "work"),
        (safeties.without_ignoring_reverted_runs, ("roll back", telemetry.ROLLBACK_RECORDED), "work commit"),
        (safeties.without_undoing_whole_documents, ("roll back", telemetry.ROLLBACK_RECORDED), "work"),
        (safeties.without_restarting_fetches, ("roll back", telemetry.ROLLBACK_TAGGED), "work fetch"),
    ],
)
def test_search_without_a_safety_finds_a_history_that_goes_wrong(
    switch_off: Callable[[pytest.MonkeyPatch], None],
    overtaken: tuple[str, str],
    besides: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the search would find the loss of any of them."""

    class Focused(Model):
        focus = (overtaken,)
        jobs = tuple(besides.split())

    switch_off(monkeypatch)
    with pytest.raises(WrongError):
        search(Focused, MOST_HISTORIES, phases=[Phase.generate], database=None, derandomize=True)
