"""The batch lane makes the index of the realtime lane, loses nothing, and pays nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed import telemetry
from flowbed.errors import Misconfigured, NotFound
from flowbed.testing.index import contents_of, differences
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.bed import Flowbed
    from flowbed.lanes.choice import LaneOption
    from flowbed.ledger import SubmissionRow
    from flowbed.records import Report

MODEL = "text-embedding-3-small"
PAGES = 30
LATER = 600.0  # seconds of a job that ends once the provider's clock is advanced


pytestmark = pytest.mark.usefixtures("quick_polls")


@pytest.fixture
async def provider() -> AsyncIterator[tuple[Simulator, str]]:
    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        yield simulator, url


@pytest.fixture
def folder(tmp_path: Path, provider: tuple[Simulator, str]) -> Path:
    return write(tmp_path / "project", provider[1])


def write(folder: Path, url: str, *, options: str = "", pages: int = PAGES) -> Path:
    """Write a project whose pages are distinct, except two with the same text."""
    folder.mkdir()
    folder.joinpath("flowbed.toml").write_text(
        f'model = "openai:{MODEL}"\n[providers.openai]\nbase_url = "{url}/v1"\napi_key = "any"\n{options}\n'
        '[sources.docs]\nkind = "files"\nlocation = "docs"\n',
        encoding="utf-8",
    )
    folder.joinpath("docs").mkdir()
    for number in range(pages):
        write_page(folder, number, f"About {number}: " + f"word{number} " * 20)
    write_page(folder, pages, "About 0: " + "word0 " * 20)
    return folder


def write_page(folder: Path, number: int, text: str) -> None:
    folder.joinpath("docs", f"{number}.txt").write_text(text, encoding="utf-8")


async def run_to_the_end(bed: Flowbed, *, runs: int = 6) -> list[Report]:
    """Run until nothing waits any more, neither here nor at the provider."""
    reports = []
    for _ in range(runs):
        reports.append(await bed.run(lane="batch"))
        if not reports[-1].submissions and not reports[-1].waiting:
            return reports
        await asyncio.sleep(0.05)
    raise AssertionError(reports[-1])


async def statuses(bed: Flowbed) -> dict[str, int]:
    return dict((await bed.status()).chunks)


async def test_run_batch_makes_the_index_of_the_realtime_lane(
    folder: Path, tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Two runs, as from cron, submit everything and commit the results; each text is paid for once, at half price."""
    simulator, url = provider
    async with await flowbed.aopen(folder) as bed:
        reports = await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert sum(report.embedded for report in reports) == PAGES
        assert simulator.account.totals().billed_texts == PAGES
        assert simulator.account.totals().billed_again == 0
        (lane,) = await bed.spending("lane")
        assert (lane.name, lane.texts, lane.planned) == ("batch", PAGES, lane.billed)
        assert lane.billed == simulator.account.totals().billed
        assert lane.cost_usd == pytest.approx(lane.billed * 0.01 / 1e6)
        assert (await bed.run()).embedded == 0
    other = write(tmp_path / "other", url)
    async with await flowbed.aopen(other) as bed:
        await bed.run(lane="realtime")
    assert not differences(contents_of(folder), contents_of(other))


async def test_run_batch_with_wait_ends_with_the_index(folder: Path) -> None:
    """With `wait` one run does everything."""
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run(lane="batch", wait=True)
        assert (report.embedded, report.failed, report.submissions) == (PAGES, 0, ())
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}


async def test_steps_find_submit_poll_repeated_do_nothing(
    folder: Path, provider: tuple[Simulator, str]
) -> None:
    """Finding, submitting, listing and polling each do what is left, and nothing when repeated."""
    simulator, _ = provider
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime", limit=1)
        found = await bed.find_unembedded()
        assert (found.texts, found.chunks + found.reused) == (PAGES - 1, PAGES)
        assert (await bed.find_unembedded()).submissions == []
        listed = await bed.submissions()
        assert [(row.id, row.state, row.texts) for row in listed] == [
            (found.submissions[0], "ready", PAGES - 1)
        ]
        assert (await bed.submit()).submitted == found.submissions
        assert (await bed.submit()).submitted == []
        ended: list[SubmissionRow] = []
        async with asyncio.timeout(60):
            while not ended:
                ended = (await bed.poll()).ended
        assert [row.state for row in ended] == ["completed"]
        assert (await bed.poll()).ended == []
        assert await bed.submissions() == []
        assert [row.billed for row in await bed.submissions(live=False)] == [found.tokens]
        assert (await bed.run()).embedded == 0  # chunks whose vector was in the cache
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


FAULTS = {
    "shuffled": Fault(kind="shuffled"),
    "doubled": Fault(kind="doubled_lines", share=0.3),
    "429 on create": Fault(kind="rate_limited", path="/v1/batches", calls=(1, 2), retry_after=0.01),
    "429 on upload": Fault(kind="rate_limited", path="/v1/files", calls=(1,), retry_after=0.01),
    "made, and the answer lost": Fault(kind="cut", path="/v1/batches", calls=(1,)),
    "uploaded, and the answer lost": Fault(kind="cut", path="/v1/files", calls=(1,)),
    "the download breaks off": Fault(kind="truncated", path="/v1/files/*/content", calls=(1,)),
    "expired at 60 %": Fault(kind="expired", share=0.4, calls=(1,)),
    "validation": Fault(kind="validation", text="word7 ", calls=(1,)),
    "errors": Fault(kind="error", path="/v1/batches*", calls=(1, 3), status=503),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_run_batch_transient_fault_loses_and_costs_nothing(
    name: str, folder: Path, provider: tuple[Simulator, str]
) -> None:
    """After any transient fault everything is in the index, and no text was paid for twice."""
    simulator, _ = provider
    simulator.order(FAULTS[name])
    async with await flowbed.aopen(folder) as bed:
        await run_to_the_end(bed)
        failed = {"validation": 1}.get(name, 0)
        expected = {"SUCCESS": PAGES + 1 - failed, "FAILED": failed}
        assert await statuses(bed) == {status: many for status, many in expected.items() if many}
        totals = simulator.account.totals()
        assert (totals.billed_texts, totals.billed_again) == (PAGES - failed, 0)
        (lane,) = await bed.spending("lane")
        assert lane.billed == totals.billed


@pytest.mark.parametrize(("status", "kind"), [(400, "rejected"), (500, "transient")])
async def test_run_batch_failed_lines_report_their_reason(
    status: int, kind: str, folder: Path, provider: tuple[Simulator, str]
) -> None:
    """Of 3 % failed lines the refused ones become dead letters, and the others succeed in the next run."""
    simulator, _ = provider
    simulator.order(Fault(kind="failed_lines", share=0.03, status=status, calls=(1,)), seed=3)
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch", wait=True)
        failed = (await statuses(bed)).get("FAILED", 0)
        assert failed
        letters = await bed.dead_letters()
        assert len(letters) == (failed if kind == "rejected" else 0)
        assert all(letter.reason for letter in letters)
        if letters:
            await bed.retry_dead_letters()
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


async def test_run_batch_missing_lines_are_retried(folder: Path, provider: tuple[Simulator, str]) -> None:
    """Texts without a result fail with the reason, and are in the index after the next run."""
    simulator, _ = provider
    simulator.order(Fault(kind="missing_lines", share=0.1, calls=(1,)), seed=1)
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run(lane="batch", wait=True)
        assert report.failures
        assert all("no line for it" in each.reason for each in report.failures)
        assert (await statuses(bed))["FAILED"] == len(report.failures)
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        (lane,) = await bed.spending("lane")
        assert lane.billed == lane.planned == simulator.account.totals().billed


@pytest.mark.parametrize("kind", ["lost", "forgotten"])
async def test_run_batch_lost_results_are_paid_for_again_only_on_command(
    kind: str, folder: Path, provider: tuple[Simulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks fail with the reason, and stay failed until they are retried."""
    monkeypatch.setattr(
        "flowbed.lanes.batch.poll.RETRY_AFTER", 0
    )  # the next poll decides about what is missing
    simulator, _ = provider
    simulator.order(Fault(kind=kind, calls=(1,)))  # type: ignore[arg-type]
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch", wait=True)
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"FAILED": PAGES + 1}
        assert all("pays for them again" in letter.reason for letter in await bed.dead_letters())
        assert simulator.account.totals().billed_again == 0
        await bed.retry_dead_letters()
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}


async def test_cancel_keeps_the_results_that_exist(folder: Path, provider: tuple[Simulator, str]) -> None:
    """A job that never ends is ended on request; its chunks wait again, and nothing of it was paid twice."""
    simulator, _ = provider
    simulator.order(Fault(kind="stuck", calls=(1,)))
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run(lane="batch")
        (submission,) = report.submissions
        assert (await bed.run(lane="realtime")).embedded == 0  # texts in flight wait for their submission
        await bed.cancel_submission(submission)
        with pytest.raises(NotFound, match="no live submission"):
            await bed.cancel_submission("other")
        await bed.run(lane="realtime")
        await bed.run(lane="realtime")
        assert await bed.submissions() == []
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
    assert simulator.account.totals().billed_again == 0


async def test_run_submission_past_its_deadline_is_embedded_now(
    folder: Path, provider: tuple[Simulator, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the deadline the job is cancelled, and that run embeds the texts without a result."""
    simulator, _ = provider
    simulator.order(Fault(kind="stuck", calls=(1,)))
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch", deadline=3600)
        now = process.now
        monkeypatch.setattr(process, "now", lambda: now() + 3_601_000_000)
        await bed.run()
        await bed.run()
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert [row.state for row in await bed.submissions(live=False)] == ["cancelled"]
    assert simulator.account.totals().billed_again == 0


async def test_run_text_in_flight_is_not_sent_again(folder: Path, provider: tuple[Simulator, str]) -> None:
    """New, moved and changed documents with a text that is at the provider wait for it, on either lane."""
    simulator, _ = provider
    simulator.order(Fault(kind="shuffled", delay=LATER))
    text = "About 3: " + "word3 " * 20
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch")
        write_page(folder, 500, text)
        folder.joinpath("docs", "3.txt").rename(folder / "docs" / "501.txt")
        write_page(folder, 4, "Something else altogether.")
        lanes: tuple[LaneOption, ...] = ("realtime", "batch")
        for lane in lanes:
            await bed.run(lane=lane)
        simulator.advance(LATER)
        await run_to_the_end(bed)
        assert simulator.account.totals().billed_again == 0
        hits = {hit.id for hit in await bed.search(text.strip(), limit=3) if hit.score > 0.999}
        assert {"docs#500.txt#00000", "docs#501.txt#00000"} <= hits
        assert not any("#3.txt#" in hit for hit in hits)
        assert await statuses(bed) == {"SUCCESS": PAGES + 2}


async def test_run_shortened_document_keeps_old_chunks_until_the_results(
    folder: Path, provider: tuple[Simulator, str]
) -> None:
    """While the new text of a shortened document is at the provider, all of its old text is still found."""
    simulator, _ = provider
    paragraphs = [" ".join(f"p{place}w{word}" for word in range(150)) for place in range(4)]
    write_page(folder, 700, "\n\n".join(paragraphs))
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime")
        before = {row.chunk.id for row in await bed.why("700.txt")}
        assert len(before) > 2
        simulator.order(Fault(kind="shuffled", delay=LATER))
        write_page(folder, 700, "Now it says this, and no more.")
        await bed.run(lane="batch")
        assert before <= set(contents_of(folder).rows["docs"])
        simulator.advance(LATER)
        await run_to_the_end(bed)
        await bed.run()
        rows = contents_of(folder).rows["docs"]
        assert [row.document for key, row in rows.items() if key in before] == [
            "Now it says this, and no more."
        ]


async def test_find_cuts_submissions_to_the_providers_queue(
    tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """No more is submitted than fits into the provider's queue; the rest follows when there is room."""
    simulator, url = provider
    folder = write(tmp_path / "narrow", url, options='batch_tokens = "350"')
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        ended = await bed.submissions(live=False)
        assert len(ended) > 3
        assert all(row.tokens <= 350 for row in ended)
    assert simulator.account.totals().billed_again == 0


async def test_run_batch_keeps_to_the_budget(folder: Path, provider: tuple[Simulator, str]) -> None:
    """Texts that would exceed it are not submitted, and wait."""
    simulator, _ = provider
    async with await flowbed.aopen(folder) as bed:
        report = await bed.run(lane="batch", wait=True, budget=5e-6)
        assert 0 < report.cost_usd <= 5e-6
        assert report.waiting
        assert any("budget" in each.reason for each in report.failures)
    assert simulator.account.totals().billed * 0.01 / 1e6 <= 5e-6


async def test_find_two_at_once_share_the_work(folder: Path, provider: tuple[Simulator, str]) -> None:
    """However many look for work at once, each chunk is in one submission, and each text too."""
    simulator, _ = provider
    async with await flowbed.aopen(folder) as bed, await flowbed.aopen(folder) as other:
        await bed.run(lane="realtime", limit=1)
        found = await asyncio.gather(*(each.find_unembedded() for each in (bed, other, bed, other)))
        await asyncio.gather(*(each.submit() for each in (bed, other)))
        while await bed.submissions():
            await asyncio.gather(*(each.poll() for each in (bed, other)))
        await run_to_the_end(bed)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert sum(each.texts for each in found) <= PAGES - 1
    assert simulator.account.totals().billed_again == 0


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("point", telemetry.SUBMISSION_FAILPOINTS)
@pytest.mark.parametrize("occurrence", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_run_batch_killed_at_any_step_loses_and_pays_nothing(
    point: str, occurrence: int, folder: Path, provider: tuple[Simulator, str]
) -> None:
    """Ended wherever a step has just changed something, and given again, the steps make the same index."""
    simulator, _ = provider
    reached = Counter[str]()

    def end(at: str, _: object) -> None:
        reached[at] += 1
        if at == point and reached[at] == occurrence:
            raise Killed

    folder.joinpath("flowbed.toml").write_text(
        folder.joinpath("flowbed.toml").read_text("utf-8").replace('"any"', '"any"\nbatch_tokens = "450"'),
        encoding="utf-8",
    )
    stop = telemetry.listen(end)
    try:
        async with await flowbed.aopen(folder) as bed:
            await bed.run(lane="batch", wait=True)
    except (Killed, BaseExceptionGroup):
        pass
    finally:
        stop()
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="batch", wait=True)
        await bed.run(lane="batch", wait=True)
        assert await statuses(bed) == {"SUCCESS": PAGES + 1}
        assert await bed.submissions() == []
        totals = simulator.account.totals()
        assert (totals.billed_texts, totals.billed_again) == (PAGES, 0)
        (lane,) = await bed.spending("lane")
        assert lane.billed == totals.billed


async def test_run_batch_model_without_batch_api_is_refused(tmp_path: Path) -> None:
    """The batch lane is refused before anything is fetched, with what to do."""
    folder = tmp_path / "local"
    folder.mkdir()
    folder.joinpath("flowbed.toml").write_text('model = "seeded:8"\n', encoding="utf-8")
    async with await flowbed.aopen(folder) as bed:
        await bed.add("docs", kind="files", location=str(tmp_path))
        with pytest.raises(Misconfigured, match="Batch API"):
            await bed.run(lane="batch")


async def test_spending_realtime_is_by_document_and_free_models_have_none(
    folder: Path, tmp_path: Path, provider: tuple[Simulator, str]
) -> None:
    """Each document of a paid model has its planned and billed tokens; a model that costs nothing has no spending."""
    simulator, _ = provider
    async with await flowbed.aopen(folder) as bed:
        await bed.run(lane="realtime")
        spent = await bed.spending("document", limit=2 * PAGES)
        assert len(spent) == PAGES
        assert all(each.planned == each.billed > 0 for each in spent)
        assert sum(each.billed for each in spent) == simulator.account.totals().billed
    free = tmp_path / "free"
    free.mkdir()
    free.joinpath("flowbed.toml").write_text('model = "seeded:8"\n', encoding="utf-8")
    async with await flowbed.aopen(free) as bed:
        await bed.add("docs", kind="files", location=str(folder / "docs"))
        assert (await bed.run()).embedded == PAGES
        assert await bed.spending("lane") == []
