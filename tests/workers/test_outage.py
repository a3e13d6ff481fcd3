"""An outage is said once when it begins and once when it is over, whatever is heard of late."""

from __future__ import annotations

import logging

import pytest

from flowbed.workers.outage import SETTLING, Outage


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage("the ledger", monotonic=clock)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().partition(",")[0] for record in caplog.records]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def test_outage_is_not_over_by_the_answer_to_an_earlier_call(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = 5.0
    outage.failed("refused")
    clock.now = 6.0
    outage.over(asked=4.0)
    outage.failed("refused")
    outage.over(asked=5.5)
    assert said(caplog) == ["waiting for the ledger", "the ledger is back after 1 s"]


def test_outage_failure_heard_of_soon_after_its_end_is_no_other_outage(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The threads of an engine find their lost connections one after the other."""
    outage.failed("refused")
    clock.now = 1.0
    outage.over(asked=0.5)
    clock.now = SETTLING
    outage.failed("the connection was lost")
    clock.now = SETTLING + 1.0
    outage.failed("refused")
    assert said(caplog) == [
        "waiting for the ledger",
        "the ledger is back after 1 s",
        "waiting for the ledger",
    ]
