"""Failures of a provider's Batch API cost neither texts nor money, and are reported."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest
from tests.lanes.batch.test_batch_lane import run_to_the_end, statuses, write, write_page

import flowbed
from flowbed.lanes.batch.input import Input
from flowbed.lanes.batch.lifecycle import RETRY_AFTER
from flowbed.testing.index import contents_of, differences
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running
from flowbed.testing.simulators.batch_api.openai_jobs import BatchesApi
from flowbed.wiring import process
from flowbed.wiring.process import now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.bed import Flowbed
    from flowbed.ledger import Spent, SubmissionRow
    from flowbed.records import Report
    from flowbed.storage import Store
    from flowbed.testing.simulators.faults import Kind

PAGES = 20
CREATE, LIST, JOB, CONTENT = "/v1/batches", "/v1/batches", "/v1/batches/*", "/v1/files/*/content"
LATER = 600.0  # seconds within which no job here ends


pytestmark = pytest.mark.usefixtures("quick_polls")


@pytest.fixture
async def provider() -> AsyncIterator[tuple[Simulator, str]]:
    """Serve a provider that ends jobs at once."""
    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        yield simulator, url


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Simulator, str]]:
    """Serve a provider whose jobs end when a test advances its clock."""
    simulator = Simulator(OpenAI(batch_seconds=LATER, cancel_seconds=0))
    async with running(simulator) as url:
        yield simulator, url


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next poll decide about what is missing."""
    monkeypatch.setattr("flowbed.lanes.batch.poll.RETRY_AFTER", 0)


class Ahead:
    """How far the project's clock is ahead."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def now(self) -> int:
        return now() + int(self._seconds * 1e6)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """Let a test advance the clock of projects that it opens."""
    clock = Ahead()
    monkeypatch.setattr(process, "now", clock.now)
    return clock


def made(tmp_path: Path, url: str, **options: str) -> Path:
    """Write a project of some pages."""
    said = "\n".join(f'{name} = "{value}"' for name, value in options.items())
    return write(tmp_path / "project", url, options=said, pages=PAGES)


def change(folder: Path, old: str, new: str) -> None:
    """Change the settings of a project."""
    file = folder / "flowbed.toml"
    assert old in file.read_text("utf-8")
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")


async def spent(bed: Flowbed) -> Spent:
    """Read what was spent on the batch lane."""
    (lane,) = await bed.spending("lane")
    return lane


def said(report: Report) -> str:
    """Join the reasons of the failures."""
    return "; ".join(each.reason for each in report.failures)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('api_key = "any"', 'api_key = "other"', "another key"),
        ('/v1"', '/v2"', "base_url"),
    ],
)
async def test_poll_wrong_settings_for_one_run_cost_nothing(
    old: str, new: str, told: str, tmp_path: Path, slow: tuple[Simulator, str], at_once: None
) -> None:
    """With another project's key or a mistyped address a run says so, and the next one collects the results."""
    simulator, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch")
    change(folder, old, new)
    async with await flowbed.aopen(folder) as bed:
        for _ in range(3):
            report = await bed.run()
            assert told in said(report)
            assert await statuses(bed) == {"PENDING": PAGES + 1}
    change(folder, new, old)
    simulator.advance(LATER)
    async with await flowbed.aopen(folder) as bed:
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


async def test_wait_with_another_key_reports_at_once(
    tmp_path: Path, slow: tuple[Simulator, str], at_once: None
) -> None:
    """Waiting does not help; cancelling embeds the texts again, and says what that costs."""
    _, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch")
    change(folder, 'api_key = "any"', 'api_key = "other"')
    async with await flowbed.aopen(folder) as bed:
        report = await asyncio.wait_for(bed.run(lane="batch", wait=True), 30)
        assert "another key" in said(report)
        (submission,) = report.submissions
        await bed.cancel_submission(submission)
        report = await bed.run(lane="realtime")
        assert "paid for in addition" in said(report)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}


async def test_poll_rotated_key_of_the_same_account_collects_the_job(
    tmp_path: Path, slow: tuple[Simulator, str]
) -> None:
    """A job that the new key sees is collected, even if the name of the account differs."""
    simulator, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch")
    # The simulator knows accounts by their keys alone.
    change(folder, 'api_key = "any"', 'api_key = "any"\nproject = "proj_other"')
    simulator.advance(LATER)
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run()
        assert (report.embedded, report.failed) == (PAGES, 0)


@pytest.mark.parametrize("path", [JOB, CONTENT])
async def test_poll_single_404_loses_nothing(
    path: str, tmp_path: Path, provider: tuple[Simulator, str], at_once: None
) -> None:
    """A job or a file that is not found once is not lost."""
    simulator, url = provider
    simulator.order(Fault(kind="error", path=path, status=404, calls=(1,)))
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        report = await bed.run(lane="batch", wait=True)
        assert (report.embedded, report.failed) == (PAGES, 0)
        assert await bed.dead_letters() == []
    assert simulator.account.totals().billed_again == 0


async def test_poll_missing_job_is_lost_only_after_a_while(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Polls in quick succession count as one; the list of submissions shows the reason meanwhile."""
    simulator, url = provider
    simulator.order(Fault(kind="forgotten", calls=(1,)))
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        for _ in range(3):
            report = await bed.run(lane="batch")
            assert "does not know job" in said(report)
            assert await statuses(bed) == {"PENDING": PAGES + 1}
        (row,) = await bed.submissions()
        assert "does not know job" in row.error
        await bed._ledger.submissions.hold(row.id, worker="test", now=0, until=1)
        await bed._ledger.submissions.save(
            replace(row, later=row.later - RETRY_AFTER, worker="", until=0), worker="test"
        )
        await bed.run(lane="batch")
        assert await statuses(bed) == {"FAILED": PAGES + 1}


@pytest.mark.parametrize("end", ["deadline", "cancel"])
async def test_submit_refused_ends_by_deadline_or_cancel(
    end: str, tmp_path: Path, provider: tuple[Simulator, str], ahead: Ahead
) -> None:
    """The row says why; past the deadline or once cancelled, its texts are embedded by the other lane."""
    simulator, url = provider
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="realtime", limit=1)
        simulator.order(Fault(kind="error", path=CREATE, status=403))
        (submission,) = (await bed.find_unembedded(deadline=10 if end == "deadline" else None)).submissions
        done = await bed.submit()
        assert (done.blocked, len(done.failures)) == ([submission], 1)
        (row,) = await bed.submissions()
        assert (row.state, "403" in row.error) == ("ready", True)
        if end == "cancel":
            await bed.cancel_submission(submission)
        else:
            ahead.add(10)
        report = await bed.run(lane="realtime")
        assert (report.failed, await statuses(bed)) == (0, {"SUCCESS": PAGES + 1})
    assert simulator.account.totals().billed_again == 0


@pytest.mark.parametrize("end", ["deadline", "cancel"])
async def test_submit_lost_response_ends_without_the_provider_only_if_cancelled(
    end: str, tmp_path: Path, slow: tuple[Simulator, str], ahead: Ahead
) -> None:
    """The response to creating a job is lost, and jobs cannot be listed: cancelling warns that it may be paid for."""
    simulator, url = slow
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="realtime", limit=1)
        after = tuple(range(2, 100))
        simulator.order(
            Fault(kind="cut", path=CREATE, calls=(1,)),
            Fault(kind="error", path=LIST, status=403, calls=after),
        )
        (submission,) = (await bed.find_unembedded(deadline=10 if end == "deadline" else None)).submissions
        await bed.submit()
        (row,) = await bed.submissions()
        assert (row.state, "403" in row.error) == ("submitting", True)
        if end == "cancel":
            await bed.cancel_submission(submission)
            report = await bed.run(lane="realtime")
            assert "paid for in addition" in said(report)
            assert await statuses(bed) == {"SUCCESS": PAGES + 1}
            return
        ahead.add(10)
        assert row.deadline <= bed.clock()
        await bed._ledger.submissions.hold(row.id, worker="test", now=0, until=1)
        await bed._ledger.submissions.save(replace(row, later=0, worker="", until=0), worker="test")
        assert "403" in said(await bed.run(lane="realtime"))
        assert "PENDING" in await statuses(bed)
        simulator.order()
        (row,) = await bed.submissions()
        await bed._ledger.submissions.hold(row.id, worker="test", now=0, until=1)
        await bed._ledger.submissions.save(replace(row, later=0, worker="", until=0), worker="test")
        for _ in range(3):
            await bed.run(lane="realtime")
            simulator.advance(1)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert simulator.account.totals().billed_again == 0


async def test_submit_key_changed_before_submitting_uses_the_new_account(
    tmp_path: Path, slow: tuple[Simulator, str]
) -> None:
    """Texts gathered with another key count against the queue of the key that they are submitted with."""
    simulator, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime", limit=1)
        (submission,) = (await bed.find_unembedded()).submissions
    change(folder, 'api_key = "any"', 'api_key = "other"')
    async with await flowbed.aopen(folder) as bed:
        (found,) = await bed.submissions()
        assert (await bed.submit()).submitted == [submission]
        (row,) = await bed.submissions()
        assert row.account != found.account
        simulator.advance(LATER)
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


async def test_submit_held_by_another_worker_waits_and_poll_does_not_hold(
    tmp_path: Path, slow: tuple[Simulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitting reports it as waiting, and polling does not hold it, so that the submitting worker finds it free."""
    _, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed, await flowbed.aopen(folder) as other:
        await bed.run(lane="realtime", limit=1)
        (submission,) = (await bed.find_unembedded()).submissions
        submissions, worker = bed._ledger.submissions, other._context().worker
        row = await submissions.hold(submission, worker=worker, now=0, until=2**62)
        assert row is not None
        done = await bed.submit()
        assert (done.submitted, done.waiting, done.failures) == ([], [submission], [])
        await submissions.save(replace(row, worker="", until=0), worker=worker)
        hold, held = submissions.hold, []

        async def holding(name: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
            held.append(name)
            return await hold(name, worker=worker, now=now, until=until)

        monkeypatch.setattr(submissions, "hold", holding)
        assert [each.id for each in (await bed.poll()).pending] == [submission]
        assert held == []
        assert (await bed.submit()).submitted == [submission]


async def test_submit_begun_with_another_key_is_not_submitted_twice(
    tmp_path: Path, slow: tuple[Simulator, str]
) -> None:
    """Only the key that submitting was begun with can tell whether there is a job."""
    simulator, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime", limit=1)
        simulator.order(
            Fault(kind="cut", path=CREATE, calls=(1,)), Fault(kind="error", path=LIST, status=403, calls=(2,))
        )
        (submission,) = (await bed.find_unembedded()).submissions
        await bed.submit()
    change(folder, 'api_key = "any"', 'api_key = "other"')
    async with await flowbed.aopen(folder) as bed:
        done = await bed.submit(submission)
        assert (done.submitted, done.blocked) == ([], [submission])
        assert "another key" in done.failures[0].reason
    change(folder, 'api_key = "other"', 'api_key = "any"')
    async with await flowbed.aopen(folder) as bed:
        assert (await bed.submit(submission)).submitted == [submission]
        simulator.advance(LATER)
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


async def test_cancel_unrecorded_job_is_recorded_and_then_cancelled(
    tmp_path: Path, slow: tuple[Simulator, str]
) -> None:
    """A job whose creation was not recorded is found and cancelled at the provider."""
    simulator, url = slow
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="realtime", limit=1)
        (submission,) = (await bed.find_unembedded()).submissions
        (row,) = await bed.submissions()
        await bed._ledger.submissions.hold(row.id, worker="dead", now=0, until=1)
        await bed._ledger.submissions.save(
            replace(row, state="submitting", worker="", until=0), worker="dead"
        )
        api = bed._context().batch_api()
        assert api is not None
        await api.submit(submission, lambda: bed._context().store.stream(row.key), size=row.bytes)
        await bed.cancel_submission(submission)
        await bed.poll()
        assert [each.state for each in await bed.submissions()] == ["submitted"]
        simulator.advance(1)
        await bed.run(lane="realtime")
        assert [each.state for each in await bed.submissions(live=False)] == ["cancelled"]
        await bed.run(lane="realtime")
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}


async def test_submit_past_its_deadline_is_not_submitted(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """No job is created that would have to be cancelled at once."""
    simulator, url = provider
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="realtime", limit=1)
        await bed.find_unembedded(deadline=0.1)
        await asyncio.sleep(0.2)
        await bed.submit()
        assert [row.state for row in await bed.submissions()] == ["ready"]
        await bed.run()
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    asked = [each for each in simulator.account.exchanges if each.method == "POST"]
    assert not any(each.path == CREATE for each in asked)


async def test_submit_postponed_takes_no_room_in_the_queue(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """A submission that is refused again and again takes no room, so that the next one is submitted."""
    simulator, url = provider
    folder = made(tmp_path, url, batch_tokens="450")
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime", limit=1)
        found = await bed.find_unembedded()
        assert len(found.submissions) == 2
        simulator.order(Fault(kind="error", path=CREATE, status=403, calls=(1,)))
        first, second = await bed.submit(), await bed.submit()
        assert (len(first.blocked), len(first.submitted) + len(second.submitted)) == (1, 1)
        assert {*first.blocked, *first.submitted, *second.submitted} == {*found.submissions}


@pytest.mark.parametrize("kind", ["missing_lines", "conflicting_lines"])
async def test_poll_text_without_result_twice_becomes_a_dead_letter(
    kind: Kind, tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """A text without a result, or with conflicting ones, is paid for twice at most, and the ledger has the cost."""
    simulator, url = provider
    simulator.order(Fault(kind=kind, text="word3 "))
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        for _ in range(4):
            await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES, "FAILED": 1}
        (letter,) = await bed.dead_letters()
        assert "pays for them again" in letter.reason
        lane = await spent(bed)
        totals = simulator.account.totals()
        assert totals.billed_again == 1
        assert lane.billed == lane.planned == totals.billed
        assert lane.texts == totals.texts
        assert sum(row.billed for row in await bed.submissions(live=False)) == totals.billed


async def test_poll_most_results_missing_fails_without_paying_again(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Where the job claims to have done all texts, the missing results are lost, not omitted."""
    simulator, url = provider
    simulator.order(Fault(kind="missing_lines", share=0.7))
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        for _ in range(2):
            await bed.run(lane="batch", wait=True)
        left = (await statuses(bed))["FAILED"]
        assert left >= 0.7 * PAGES
        assert len(await bed.dead_letters()) == left
        totals = simulator.account.totals()
        assert totals.billed_again == 0
        assert (await spent(bed)).billed == totals.billed


@pytest.mark.parametrize("kind", ["torn", "broken_lines"])
async def test_poll_unreadable_lines_record_their_cost(
    kind: str, tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Their texts are sent once more, and the ledger has what was billed for them."""
    simulator, url = provider
    simulator.order(Fault(kind=kind, share=0.2, calls=(1,)))  # type: ignore[arg-type]
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="batch", wait=True)
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert (await spent(bed)).billed == simulator.account.totals().billed


async def test_submit_larger_than_the_queue_fails_with_the_setting_to_change(tmp_path: Path) -> None:
    """It would never be accepted: the failure names the table to change, with which it is cut again."""
    simulator = Simulator(OpenAI(queue_tokens=300))
    async with running(simulator) as url:
        folder = made(tmp_path, url)
        change(folder, "openai:", "box:")
        change(folder, "[providers.openai]", '[providers.box]\nvendor = "openai"')
        async with await flowbed.aopen(folder) as bed:
            report = await asyncio.wait_for(bed.run(lane="batch", wait=True), 60)
            assert "batch_tokens in [providers.box]" in said(report)
            assert await bed.submissions() == []
        change(folder, 'api_key = "any"', 'api_key = "any"\nbatch_tokens = "300"')
        async with await flowbed.aopen(folder) as bed:
            report = await bed.run(lane="batch", wait=True)
            assert (report.failed, await statuses(bed)) == (0, {"SUCCESS": PAGES + 1})


async def test_submit_queue_full_without_own_jobs_fails(
    tmp_path: Path, provider: tuple[Simulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind our own submissions it waits; without any ahead of it, the failure names the setting to change."""

    def full(batches: BatchesApi, *_: object) -> NoReturn:
        raise batches._api.error(400, "too much waits", code="token_limit_exceeded")

    _, url = provider
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="realtime", limit=1)
        first, second = (await bed.find_unembedded(limit=10)).submissions, await bed.find_unembedded()
        assert (await bed.submit(*first)).submitted == first
        monkeypatch.setattr(BatchesApi, "_too_much", full)
        done = await bed.submit()
        assert (done.submitted, done.waiting) == ([], second.submissions)
        # A submission whose submitting was interrupted may have an unrecorded job that takes the room.
        submissions = bed._ledger.submissions
        row = await submissions.get(first[0])
        assert row is not None
        await submissions.hold(row.id, worker="test", now=0, until=1)
        await submissions.save(
            replace(row, state="submitting", later=2**62, worker="", until=0), worker="test"
        )
        done = await bed.submit(*second.submissions)
        assert (done.submitted, done.waiting) == ([], second.submissions)
        await submissions.hold(row.id, worker="test", now=0, until=1)
        await submissions.save(row, worker="test")
        monkeypatch.undo()
        await bed.poll(*first)
        monkeypatch.setattr(BatchesApi, "_too_much", full)
        done = await bed.submit(*second.submissions)
        assert "batch_tokens in [providers.openai]" in done.failures[0].reason
        monkeypatch.undo()
        assert await bed.submissions() == []
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}


@pytest.mark.parametrize(("lost", "failed"), [(1, 19), (2, 2)])
async def test_poll_one_of_two_files_lost_uses_the_other(
    lost: int, failed: int, tmp_path: Path, provider: tuple[Simulator, str], at_once: None
) -> None:
    """Only the texts of the lost file fail; a lost file of errors has cost nothing."""
    simulator, url = provider
    calls = (lost, lost + 2) if lost == 1 else (2, 3)
    simulator.order(
        Fault(kind="failed_lines", share=0.1, status=400, calls=(1,)),
        Fault(kind="error", path=CONTENT, status=404, calls=calls),
    )
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        report = await bed.run(lane="batch", wait=True)
        assert report.embedded == (0 if lost == 1 else 18)
        assert (await statuses(bed))["FAILED"] in {failed, failed + 1, failed + 2}
        letters = [letter for letter in await bed.dead_letters() if "has lost" in letter.reason]
        assert len(letters) in ({18, 19} if lost == 1 else {2, 3})
        assert (await spent(bed)).billed == simulator.account.totals().billed


async def test_poll_unusable_results_do_not_stop_other_submissions(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """They are kept with the reason until they are cancelled; the other submissions go on."""
    simulator, url = provider
    simulator.order(Fault(kind="wrong_dimension", path=CREATE, calls=(1,)))
    async with await flowbed.aopen(made(tmp_path, url, batch_tokens="300")) as bed:
        report = await asyncio.wait_for(bed.run(lane="batch", wait=True), 60)
        assert "dimensions" in said(report)
        (row,) = await bed.submissions()
        assert "dimensions" in row.error
        waiting = (await statuses(bed))["PENDING"]
        assert await statuses(bed) == {"SUCCESS": PAGES + 1 - waiting, "PENDING": waiting}
        await bed.cancel_submission(row.id)
        report = await bed.run(lane="realtime")
        assert (report.failed, await statuses(bed)) == (0, {"SUCCESS": PAGES + 1})
        assert sum(each.billed for each in await bed.spending("lane")) == simulator.account.totals().billed


async def test_run_realtime_leaves_texts_that_a_finder_gathers(
    tmp_path: Path, provider: tuple[Simulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a submission is gathered but not recorded, the other lane does not send its texts."""
    simulator, url = provider
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed, await flowbed.aopen(folder) as other:
        await bed.run(lane="realtime", limit=1)
        gathered, go_on = asyncio.Event(), asyncio.Event()
        write = Input.write

        async def slowly(self: Input, store: Store) -> None:
            await write(self, store)
            gathered.set()
            await go_on.wait()

        monkeypatch.setattr(Input, "write", slowly)
        finder = asyncio.create_task(bed.find_unembedded())
        await gathered.wait()
        write_page(folder, 500, "About 3: " + "word3 " * 20)
        write_page(folder, 501, "Something that nobody has gathered.")
        report = await asyncio.wait_for(other.run(lane="realtime"), 60)
        assert (report.embedded, report.waiting) == (1, 1)
        go_on.set()
        await finder
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 3}
    assert simulator.account.totals().billed_again == 0


@pytest.mark.parametrize("order", ["", "shuffled"])
async def test_poll_conflicting_vectors_fail_the_text(
    order: str, tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Whichever line comes first, no conflicting vector is used: the chunk fails with the reason and is retried."""
    simulator, url = provider
    folder, other = made(tmp_path, url), write(tmp_path / "other", url, pages=PAGES)
    faults = [Fault(kind="conflicting_lines", share=0.5, calls=(1,))]
    simulator.order(*faults, *([Fault(kind="shuffled", calls=(1,))] if order else []), seed=1)
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run(lane="batch", wait=True)
        assert "more than once, with different vectors" in said(report)
        failed = (await statuses(bed))["FAILED"]
        assert 0 < failed < PAGES
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert simulator.account.totals().billed_again == failed
        assert (await spent(bed)).billed == simulator.account.totals().billed
    async with await flowbed.aopen(other) as bed:
        await bed.run(lane="realtime")
    assert not differences(contents_of(folder), contents_of(other))


async def test_poll_results_of_replaced_texts_are_cached(tmp_path: Path, slow: tuple[Simulator, str]) -> None:
    """An edit that is reverted finds the vector that was paid for, and the ledger has its planned tokens."""
    simulator, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime")
        for text in ("A new text of three.", "A newer text of three."):
            write_page(folder, 3, text)
            await bed.run(lane="batch")
        simulator.advance(LATER)
        await run_to_the_end(bed)
        write_page(folder, 3, "A new text of three.")
        assert (await bed.run(lane="realtime")).embedded == 0
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        lanes = await bed.spending("lane")
        assert all(each.planned == each.billed for each in lanes)
        assert sum(each.billed for each in lanes) == simulator.account.totals().billed
    assert simulator.account.totals().billed_again == 0


async def test_cancel_submission_of_another_model_says_why_not(
    tmp_path: Path, slow: tuple[Simulator, str]
) -> None:
    """Cancelling a submitted one needs the model it was submitted with; one that was only gathered ends at once."""
    _, url = slow
    folder = made(tmp_path, url)
    async with await flowbed.aopen(folder) as bed:
        (handed_in,) = (await bed.run(lane="batch")).submissions
        write_page(folder, 500, "Something new.")
        await bed.run(lane="realtime", limit=0)
        await bed.find_unembedded()
        gathered = [row.id for row in await bed.submissions() if row.state == "ready"]
    change(folder, "3-small", "3-large")
    async with await flowbed.aopen(folder) as bed:
        for each in (handed_in, *gathered):
            await bed.cancel_submission(each)
        polled = await bed.poll()
        assert [row.id for row in polled.ended] == gathered
        (problem,) = polled.tally.failures
        assert "text-embedding-3-small, which is not the one set" in problem.reason
        assert [row.id for row in await bed.submissions()] == [handed_in]
    change(folder, "3-large", "3-small")
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime")
        await bed.run(lane="realtime")
        assert await bed.submissions() == []


async def test_poll_results_without_vectors_are_retried(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Lines without vectors are tried again, however many there are: they do not count as missing."""
    simulator, url = provider
    simulator.order(Fault(kind="not_finite", path=CREATE, calls=(1,)))
    async with await flowbed.aopen(made(tmp_path, url)) as bed:
        await bed.run(lane="batch", wait=True)
        assert await bed.dead_letters() == []
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
