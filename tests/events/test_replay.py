"""Dead letters name their batch files, and one batch, a day or a source is replayed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import NotFound, Rejected
from flowbed.ledger import DeadLetter
from flowbed.ledger.workers import DEATHS, TASK, HoldsWorkers

if TYPE_CHECKING:
    from tests.support.projects import Project

BAD = "partner/chunked/year=2026/month=01/day=06/batch_bad.json"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr("flowbed.events.intake.RETRIES", (0.0, 0.0))


async def test_replay_of_a_batch_a_day_or_a_source_queues_only_that(project: Project) -> None:
    """Refused chunks of two sources and a broken file are found, and replayed, by what they belong to."""
    for name in ("docs", "notes"):
        project.write(f"{name}/a.txt", f"POISON {name}")
    file = project.folder / ".flowbed/store" / BAD
    file.parent.mkdir(parents=True)
    file.write_text("{")
    async with await project.open() as bed:
        for name in ("docs", "notes"):
            await bed.add(name, kind="files", location=name)
        await bed.run()
        await bed.embed()
        every = {letter.subject: letter for letter in await bed.dead_letters()}
        docs, notes = every["docs#a.txt#00000"], every["notes#a.txt#00000"]
        assert (docs.source, docs.attempts, len(docs.batches)) == ("docs", 1, 1)
        assert docs.batches[0].startswith("docs/chunked/year=")
        assert (every[BAD].batches, every[BAD].attempts) == ((BAD,), 3)
        today = docs.batches[0].partition("year=")[2][:4]
        for which, found in (
            ({"source": "docs"}, {docs.subject}),
            ({"day": "2026-01-06"}, {BAD}),
            ({"batch": notes.batches[0]}, {notes.subject}),
            ({"batch": notes.batches[0].rpartition("_")[2].removesuffix(".json")}, {notes.subject}),
            ({"source": "docs", "day": "2026-01-06"}, set()),
        ):
            assert {letter.subject for letter in await bed.dead_letters(**which)} == found, which
        assert today.isdigit()
        assert (await bed.replay(batch=notes.batches[0])).waiting == 1
        assert {letter.subject for letter in await bed.dead_letters()} == {docs.subject, BAD}
        again = await bed.replay(day="2026-01-06")
        assert (again.waiting, again.read, [each.subject for each in again.failures]) == (0, 0, [BAD])
        file.write_text(json.dumps([{"text": "whole"}]))
        again = await bed.replay(source="partner")
        assert (again.waiting, again.read, again.failures) == (1, 1, [])
        assert {letter.subject for letter in await bed.dead_letters()} == {docs.subject}
        await bed.run()  # without names, it embeds what others wrote too
        with pytest.raises(NotFound, match="nothing of it has failed"):
            await bed.replay(source="partner")
        with pytest.raises(Rejected, match="write it as 2026-11-30"):
            await bed.replay(day="today")
    assert set(project.documents("partner").values()) == {"whole"}


async def test_replay_includes_what_failed_for_a_passing_reason(project: Project) -> None:
    """A chunk that failed without a dead letter is queued with its source."""
    project.write("docs/a.txt", "text")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        project.set_model("seeded:32", server="127.0.0.1:1")
    async with await project.open() as bed:
        assert bed.settings.sources.keys() == {"docs"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowbed.lanes.retries.WAIT_FIRST", 0.0)
            patch.setattr("flowbed.lanes.retries.WAIT_MOST", 0.0)
            await bed.run()
        assert (await bed.status()).chunks == {"FAILED": 1}
        assert await bed.dead_letters() == []
        assert (await bed.replay(source="docs")).waiting == 1
        assert (await bed.status()).chunks == {"NONE": 1}


async def test_replay_of_a_task_that_workers_died_at_lets_workers_take_it_again(project: Project) -> None:
    async with await project.open() as bed:
        assert isinstance(bed.ledger, HoldsWorkers)
        letter = DeadLetter(kind=TASK, owner="workers", subject="embed(b1)", reason="5 workers died", at=1)
        await bed.ledger.dead_letters.add([letter])
        await bed.ledger.workers.add(DEATHS, ["embed(b1)", "embed(b2)"])
        again = await bed.replay("embed(b1)")
        assert (again.tasks, again.waiting) == (1, 0)
        assert await bed.dead_letters() == []
        assert await bed.ledger.workers.marks(DEATHS) == [{"embed(b2)": 1}]
        assert (await bed.replay()).tasks == 0
