"""The lane of a run follows from the request, the saving and the time left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.batch_api import JobTerms
from flowbed.lanes.choice import GRACE, MIN_SAVING, MIN_TOKENS, choose, estimate_seconds, format_duration

DAY = 86_400
TERMS = JobTerms(
    texts=50_000,
    bytes=200_000_000,
    tokens=3_000_000,
    seconds=DAY,
    price=0.01,
    account="openai:1",
    table="openai",
)
SMALL: dict[str, Any] = {
    "asked": "auto",
    "tokens": 2_000_000,
    "texts": 10_000,
    "terms": TERMS,
    "price": 0.02,
    "deadline_seconds": float(DAY),
    "queued": 0,
    "typical_seconds": None,
}


def chosen(**given: Any) -> str:
    """Choose with the values of SMALL for everything that is not given."""
    return choose(**{**SMALL, **given}).lane


@pytest.mark.parametrize(
    ("given_", "lane", "why"),
    [
        ({}, "batch", "saves $0.0200, and should be done within 24 h; the deadline is in 24 h"),
        ({"typical_seconds": 600.0, "deadline_seconds": 3_600.0}, "batch", "within 10 min"),
        ({"deadline_seconds": None}, "realtime", "no deadline; the batch lane would save $0.0200"),
        ({"deadline_seconds": DAY - 601.0}, "realtime", "may take 24 h, and the deadline is in 23.8 h"),
        ({"terms": None}, "realtime", "no Batch API"),
        ({"tokens": 0, "texts": 0}, "realtime", "nothing has to be sent"),
        ({"tokens": 900_000}, "realtime", "would save $0.0090"),
        ({"price": 0.005}, "realtime", "would save $0.0000"),
        ({"queued": 1_000_001}, "realtime", "may take 2 days"),
        ({"asked": "batch", "tokens": 1, "deadline_seconds": None}, "batch", "requested"),
        ({"asked": "realtime"}, "realtime", "requested"),
    ],
)
def test_choose_returns_the_lane_and_its_reason(given_: dict[str, Any], lane: str, why: str) -> None:
    """A requested lane is taken; otherwise texts wait only with a deadline, enough time and something to save."""
    found = choose(**{**SMALL, **given_})
    assert found.lane == lane
    assert why in found.why


work = st.fixed_dictionaries(
    {
        "tokens": st.integers(0, 10**10),
        "texts": st.integers(0, 10**7),
        "terms": st.one_of(
            st.none(),
            st.builds(
                JobTerms,
                texts=st.integers(1, 10**6),
                bytes=st.integers(1, 10**9),
                tokens=st.one_of(st.none(), st.integers(1, 10**9)),
                seconds=st.integers(60, 7 * DAY),
                price=st.floats(0, 1),
                account=st.just("any"),
            ),
        ),
        "price": st.floats(0, 1),
        "deadline_seconds": st.one_of(st.none(), st.floats(1, 30 * DAY)),
        "queued": st.integers(0, 10**9),
        "typical_seconds": st.one_of(st.none(), st.floats(1, 2 * DAY)),
    }
)


@given(work)
def test_choose_batch_only_if_it_saves_and_is_in_time(given_: dict[str, Any]) -> None:
    """On auto, the batch lane is taken only if it saves a cent, has enough tokens, and is done in time."""
    found = choose(asked="auto", **given_)
    assert found.why
    if found.lane == "realtime":
        return
    terms, tokens = given_["terms"], given_["tokens"]
    assert tokens >= MIN_TOKENS
    assert tokens * (given_["price"] - terms.price) / 1e6 >= MIN_SAVING
    each = given_["typical_seconds"] or terms.seconds
    assert (
        estimate_seconds(tokens, terms, queued=given_["queued"], each=each)
        <= given_["deadline_seconds"] + GRACE
    )


@given(work, st.floats(0, 30 * DAY), st.integers(0, 10**9))
def test_choose_later_deadline_never_changes_batch_to_realtime(
    given_: dict[str, Any], more: float, ahead: int
) -> None:
    """Texts that would wait with a near deadline and a long queue also wait with a later one and a shorter queue."""
    if given_["deadline_seconds"] is None:
        return
    near = choose(asked="auto", **{**given_, "queued": given_["queued"] + ahead})
    late = choose(asked="auto", **{**given_, "deadline_seconds": given_["deadline_seconds"] + more})
    assert (near.lane, late.lane) != ("batch", "realtime")


@given(work, st.sampled_from(["realtime", "batch"]))
def test_choose_requested_lane_is_taken(given_: dict[str, Any], asked: Any) -> None:
    """A requested lane is taken at any cost."""
    assert choose(asked=asked, **given_).lane == asked


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.25, "0.2 s"),
        (90, "90 s"),
        (120, "2 min"),
        (5_400, "90 min"),
        (7_200, "2 h"),
        (86_400, "24 h"),
        (2.5 * DAY, "2.5 days"),
    ],
)
def test_format_duration_uses_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    """Two of a unit make the next one readable, less stays with the smaller."""
    assert format_duration(seconds) == words
