"""What the submissions of every ledger must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.testing.ledger.rows import LATE, end, flat, submission

if TYPE_CHECKING:
    from flowbed.ledger import Ledger, SubmissionRow


class SubmissionsContract:
    """Tests of `Submissions`; `more` is more submissions than a page of their listings."""

    more = 1_100

    async def test_create_again_changes_nothing(self, ledger: Ledger) -> None:
        """A submission is returned as recorded; recording its id again changes nothing; an unknown id is not found."""
        row = submission(deadline=5, cost_usd=0.5)
        await ledger.submissions.create(row)
        await ledger.submissions.create(replace(row, texts=9, state="submitted"))
        assert await ledger.submissions.get("x") == row
        assert await ledger.submissions.get("unknown") is None
        assert await ledger.submissions.get("odd\0") is None

    async def test_pages_lists_live_and_ended_separately(self, ledger: Ledger) -> None:
        """Live and ended submissions are listed separately, oldest first."""
        for id_, created in (("z", 1), ("y", 3), ("x", 3), ("w", 2)):
            await ledger.submissions.create(submission(id_, created=created))
        assert [row.id for row in await flat(ledger.submissions.pages(live=True))] == ["z", "w", "x", "y"]
        assert await flat(ledger.submissions.pages(live=False)) == []
        await end(ledger, "w")
        await end(ledger, "z", state="failed", error="why")
        assert [row.id for row in await flat(ledger.submissions.pages(live=True))] == ["x", "y"]
        assert [row.id for row in await flat(ledger.submissions.pages(live=False))] == ["z", "w"]

    async def test_pages_lists_more_than_a_page(self, ledger: Ledger) -> None:
        """More submissions than fit into a page are listed once each, even with equal times."""
        rows = [
            submission(f"{n:05d}", created=1_764_000_000_000_000 + 2 * n // self.more)
            for n in range(self.more)
        ]
        for row in reversed(rows):
            await ledger.submissions.create(row)
        assert await flat(ledger.submissions.pages(live=True)) == rows
        assert await flat(ledger.submissions.pages(live=False)) == []

    async def test_hold_excludes_other_workers(self, ledger: Ledger) -> None:
        """A hold excludes others until it expires, can be repeated by its worker, and needs a live submission."""
        await ledger.submissions.create(submission())
        held = await ledger.submissions.hold("x", worker="w", now=10, until=50)
        assert held == replace(submission(), worker="w", until=50) == await ledger.submissions.get("x")
        assert await ledger.submissions.hold("x", worker="v", now=50, until=90) is None
        again = await ledger.submissions.hold("x", worker="w", now=50, until=60)
        assert again == replace(submission(), worker="w", until=60)
        assert await ledger.submissions.hold("x", worker="v", now=60, until=90) is None
        taken = await ledger.submissions.hold("x", worker="v", now=61, until=90)
        assert taken == replace(submission(), worker="v", until=90)
        await end(ledger, "x")
        assert await ledger.submissions.hold("x", worker="v", now=10, until=50) is None
        assert await ledger.submissions.hold("unknown", worker="v", now=10, until=50) is None

    async def test_hold_concurrent_one_wins(self, ledger: Ledger) -> None:
        """If many workers try to hold one submission at once, one succeeds."""
        for turn in range(5):
            name = f"x{turn}"
            await ledger.submissions.create(submission(name))
            held: list[SubmissionRow | None] = await asyncio.gather(
                *(
                    ledger.submissions.hold(name, worker=f"w{number}", now=10, until=LATE)
                    for number in range(8)
                )
            )
            (won,) = [row for row in held if row is not None]
            assert await ledger.submissions.get(name) == won

    async def test_save_without_hold_changes_nothing(self, ledger: Ledger) -> None:
        """A save by a worker without the hold changes nothing and reports that."""
        await ledger.submissions.create(submission())
        assert not await ledger.submissions.save(submission(state="submitting"), worker="")
        assert not await ledger.submissions.save(submission("unknown"), worker="w")
        mine = await ledger.submissions.hold("x", worker="w", now=10, until=50)
        assert mine is not None
        submitting = replace(mine, state="submitting", later=7, until=80)
        assert await ledger.submissions.save(submitting, worker="w")
        theirs = await ledger.submissions.hold("x", worker="v", now=81, until=LATE)
        assert theirs == replace(submitting, worker="v", until=LATE)
        assert not await ledger.submissions.save(replace(mine, state="submitted", job="j"), worker="w")
        assert await ledger.submissions.get("x") == theirs

    async def test_save_keeps_fixed_fields(self, ledger: Ledger) -> None:
        """A save writes the state, the account, the job and its outcome; fields fixed at its creation stay."""
        await ledger.submissions.create(submission())
        await ledger.submissions.hold("x", worker="w", now=10, until=50)
        changed = submission(
            state="submitted",
            account="of another key",
            worker="w",
            until=70,
            later=9,
            job="batch_1",
            submitted=8,
            deadline=99,
            done=2_000_000,
            failed=1,
            billed=4_000_000_000,
            cost_usd=12.5,
            error="said \0",
        )
        assert await ledger.submissions.save(
            replace(changed, space="{}", key="k", bytes=1, texts=1, chunks=1, created=1),
            worker="w",
        )
        assert await ledger.submissions.get("x") == replace(changed, error="said \\u0000")

    async def test_save_without_worker_ends_hold(self, ledger: Ledger) -> None:
        """A save without a worker ends the hold; another worker can take it at once."""
        await ledger.submissions.create(submission())
        mine = await ledger.submissions.hold("x", worker="w", now=10, until=LATE)
        assert mine is not None
        assert await ledger.submissions.save(replace(mine, worker="", until=0, later=40), worker="w")
        assert not await ledger.submissions.save(mine, worker="w")
        assert await ledger.submissions.hold("x", worker="v", now=10, until=LATE) is not None

    async def test_ended_submission_cannot_change(self, ledger: Ledger) -> None:
        """An ended submission can be neither saved, held nor cancelled, and its worker holds nothing."""
        await ledger.submissions.create(submission())
        await end(ledger, "x", worker="w", until=LATE)
        ended = await ledger.submissions.get("x")
        assert ended == submission(state="completed", ended=5, worker="w", until=LATE)
        assert not await ledger.submissions.save(submission(worker="w", error="late"), worker="w")
        assert not await ledger.submissions.cancel("x")
        await ledger.submissions.renew("w", until=LATE + 5)
        assert await ledger.submissions.workers() == set()
        assert await ledger.submissions.release("w") == 0
        assert await ledger.submissions.get("x") == ended

    async def test_cancel_survives_a_save(self, ledger: Ledger) -> None:
        """A cancel is recorded even if a worker holds the submission, and the holder's save does not undo it."""
        await ledger.submissions.create(submission())
        mine = await ledger.submissions.hold("x", worker="w", now=10, until=LATE)
        assert mine is not None
        assert await ledger.submissions.cancel("x")
        assert await ledger.submissions.cancel("x")
        assert await ledger.submissions.save(replace(mine, state="submitted"), worker="w")
        assert await ledger.submissions.get("x") == replace(mine, state="submitted", cancel=True)
        assert not await ledger.submissions.cancel("unknown")
        assert not await ledger.submissions.cancel("odd\0")

    async def test_renew_and_release_own_holds(self, ledger: Ledger) -> None:
        """A worker renews and releases its own holds; a state that says something may have been sent stays."""
        for name in ("x", "y", "z"):
            await ledger.submissions.create(submission(name))
        for name, worker in (("x", "w"), ("y", "w"), ("z", "v")):
            await ledger.submissions.hold(name, worker=worker, now=10, until=50)
        sending = submission(state="submitting", worker="w", until=50)
        assert await ledger.submissions.save(sending, worker="w")
        await ledger.submissions.renew("w", until=90)
        assert await ledger.submissions.workers() == {"w", "v"}
        assert await ledger.submissions.hold("x", worker="u", now=60, until=LATE) is None
        assert await ledger.submissions.hold("z", worker="u", now=60, until=LATE) is not None
        assert await ledger.submissions.release("w") == 2
        assert await ledger.submissions.get("x") == submission(state="submitting")
        assert await ledger.submissions.get("y") == submission("y")
        assert await ledger.submissions.workers() == {"u"}
        assert await ledger.submissions.release("w") == 0

    async def test_queued_sums_tokens_of_account(self, ledger: Ledger) -> None:
        """Tokens count as queued from the upload until the end, and only for the given account."""
        assert await ledger.submissions.queued("a") == 0
        for name, state, account in (
            ("r", "ready", "a"),
            ("s", "submitting", "a"),
            ("t", "submitted", "a"),
            ("u", "submitted", "another"),
        ):
            await ledger.submissions.create(submission(name, state=state, account=account))
        assert await ledger.submissions.queued("a") == 6_000_000_000
        await end(ledger, "t")
        assert await ledger.submissions.queued("a") == 3_000_000_000
        assert await ledger.submissions.queued("another") == 3_000_000_000
        assert await ledger.submissions.queued("another", besides="u") == 0

    @pytest.mark.parametrize(
        ("changes", "counts"),
        [
            ({"state": "submitting"}, True),
            ({"state": "submitting", "later": 60}, False),  # postponed: it has no job
            ({"state": "submitted", "error": "not found for a while"}, True),
            (
                {"state": "submitted", "error": "answers of no use", "done": 40, "failed": 2},
                False,
            ),  # it has ended
        ],
    )
    async def test_queued_leaves_out_postponed_and_ended(
        self, ledger: Ledger, changes: dict[str, Any], counts: bool
    ) -> None:
        """Postponed and ended submissions do not count against the queue."""
        row = submission(**{"texts": 42, **changes})
        await ledger.submissions.create(row)
        assert await ledger.submissions.queued(row.account) == (row.tokens if counts else 0)
