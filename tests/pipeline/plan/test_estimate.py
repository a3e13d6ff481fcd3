"""Estimates from earlier submissions, and the live ones that need attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import flowbed
from flowbed.embedding.batch_api import JobTerms
from flowbed.embedding.cache.cached import Cached
from flowbed.lanes.batch.submission_status import describe, find_overdue
from flowbed.ledger import SubmissionRow
from flowbed.pipeline.estimate import counts_as_billed, outlook
from flowbed.records import Space
from flowbed.testing.embedder import open_seeded

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.bed import Flowbed

HOUR = 3_600_000_000  # µs
NOW = 1_000_000 * HOUR
SPACE = Space(model="text-embedding-3-small", dimensions=1_536)
TERMS = JobTerms(
    texts=50_000,
    bytes=200_000_000,
    tokens=None,
    seconds=86_400,
    price=0.01,
    account="openai:1",
    table="openai",
)
ROW = SubmissionRow(
    id="0123456789abcdef01234567",
    space=SPACE.to_json(),
    account="openai:1",
    key="submissions/0123456789abcdef01234567/input.jsonl",
    bytes=1_000,
    texts=10,
    chunks=12,
    tokens=500,
    created=NOW - HOUR // 2,
    state="submitted",
    submitted=NOW - HOUR // 4,
    job="batch_1",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a project whose model has a Batch API, which is never called."""
    tmp_path.joinpath("flowbed.toml").write_text(
        'model = "openai:text-embedding-3-small"\n[providers.openai]\n'
        'base_url = "http://127.0.0.1:9/v1"\napi_key = "any"\n',
        "utf-8",
    )
    return tmp_path


async def ended(bed: Flowbed, number: int, seconds: float, **other: Any) -> None:
    """Record a submission that took `seconds`."""
    account = bed._context().batch_api()
    assert account is not None
    row = replace(
        ROW,
        id=f"{number:024x}",
        account=account.terms.account,
        state="completed",
        created=NOW + number,
        ended=ROW.submitted + round(seconds * 1e6),
    )
    await bed._ledger.submissions.create(replace(row, **other))


async def test_outlook_typical_seconds_is_the_p90_of_the_last_submissions(folder: Path) -> None:
    """The newest twenty of the account that completed count; a single outlier does not."""
    async with await flowbed.aopen(folder) as bed:
        found = await outlook(bed._context())
        assert (found.typical, found.timed) == (None, 0)
        assert found.batch(3_000_001).seconds == pytest.approx(2 * 86_400 / 4)  # type: ignore[union-attr]
        for number in range(5):
            await ended(bed, number, 80_000)
        for number in range(5, 24):
            await ended(bed, number, 600 + number)
        await ended(bed, 24, 86_000)
        await ended(bed, 25, 5, state="expired")
        await ended(bed, 26, 5, account="another")
        found = await outlook(bed._context())
        assert (found.typical, found.timed) == (622, 20)
        assert found.batch(1_000).seconds == 622  # type: ignore[union-attr]
        assert found.batch(0).seconds == 0  # type: ignore[union-attr]


async def test_outlook_full_queue_adds_a_round(folder: Path) -> None:
    """Tokens that do not fit beside a queue of three million wait until that has results."""
    async with await flowbed.aopen(folder) as bed:
        await ended(bed, 1, 600)
        await ended(bed, 2, 0, tokens=2_999_000, state="submitted", ended=0)
        found = await outlook(bed._context())
        assert found.queued == 2_999_000
        assert [found.batch(tokens).seconds for tokens in (1_000, 1_001)] == [600, 1_200]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "says", "command"),
    [
        ({}, "", ""),
        ({"deadline": NOW - HOUR, "done": 4}, "6 of 10 texts have no result", "flowbed run"),
        ({"deadline": NOW - 1}, "", ""),
        ({"submitted": NOW - 25 * HOUR}, "", ""),
        ({"submitted": NOW - 26 * HOUR}, "submitted 26 h ago", f"flowbed submissions poll {ROW.id}"),
        ({"state": "submitting", "created": NOW - 1}, "", ""),
        ({"state": "submitting"}, "begun and not completed", f"flowbed submissions submit {ROW.id}"),
        ({"state": "submitting", "worker": "other/1/2/3", "until": NOW + 1}, "", ""),
        (
            {"state": "submitting", "worker": "dead", "until": NOW + 1},
            "begun and not completed",
            "flowbed submissions submit",
        ),
        (
            {"state": "ready", "created": NOW - 2 * HOUR},
            "2 h ago, and not submitted",
            "flowbed submissions submit",
        ),
        ({"state": "ready"}, "", ""),
        ({"space": Space(model="other", dimensions=3).to_json()}, "for model other", "flowbed run"),
    ],
)
def test_find_overdue_names_the_problem_and_its_command(
    changed: dict[str, Any], says: str, command: str
) -> None:
    """A submission that a worker holds, or that only has to wait, is not named."""
    row = replace(ROW, **changed)
    found = list(
        find_overdue([row], space=ROW.space, terms=TERMS, now=NOW, dead=lambda worker: worker == "dead")
    )
    assert len(found) == bool(says)
    for each in found:
        assert says in each.problem
        assert each.command.startswith(command)


def test_find_overdue_waiting_behind_others_is_not_overdue() -> None:
    """A submission for which there was no room in the queue is not named while others of the account are in it."""
    behind = replace(ROW, id="2", state="ready", created=NOW - 5 * HOUR)
    asked: dict[str, Any] = {"space": ROW.space, "terms": TERMS, "now": NOW, "dead": lambda _: False}
    assert not list(find_overdue([ROW, behind], **asked))
    assert list(find_overdue([behind], **asked))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"done": 3, "failed": 1}, "with the provider since 2084-01-29 15:45, 4 of 10 texts done"),
        (
            {"cancel": True},
            "with the provider since 2084-01-29 15:45, 0 of 10 texts done, being cancelled",
        ),
        ({"state": "ready"}, "waiting to be submitted"),
        ({"state": "submitting", "error": "busy"}, "being submitted: busy"),
        ({"state": "expired", "ended": NOW, "error": "too late"}, "expired 2084-01-29 16:00: too late"),
    ],
)
def test_describe_states_the_status_in_a_few_words(changed: dict[str, Any], words: str) -> None:
    """The description has the state, its time, and the last error."""
    assert describe(replace(ROW, **changed)) == words


def test_counts_as_billed_only_if_the_embedder_says_so(tmp_path: Path) -> None:
    """The embedder is asked through its wrappers; one without the attribute counts as estimating."""
    silent = open_seeded("8", cache=tmp_path, options={})
    assert not counts_as_billed(Cached(silent, []))
    silent.exact = True  # type: ignore[attr-defined]
    assert counts_as_billed(Cached(Cached(silent, []), []))
