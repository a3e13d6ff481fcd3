"""A plan says what a run would do, and is run as it was staged; changes since are reported."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected
from flowbed.pipeline.comparing import stretches
from flowbed.pipeline.staging import KEPT, drop_plans, expired_plans
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from tests.support.projects import Project

    from flowbed.bed import Flowbed
    from flowbed.records import Plan


def staged(project: Project) -> dict[str, bytes]:
    """Read every object below `plans/`."""
    folder = project.folder / ".flowbed" / "store" / "plans"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.glob("**/*")
        if path.is_file()
    }


async def state(bed: Flowbed) -> tuple[Any, ...]:
    """Read what a plan must not change."""
    ledger = bed._ledger
    return (
        await ledger.documents.cursor("notes"),
        await ledger.documents.count("notes"),
        await ledger.chunks.counts(),
        [row.id for row in await ledger.runs.recent(limit=100)],
    )


def priced(project: Project, price: float = 1_000.0, **options: str) -> None:
    """Set the price of a million words."""
    project.set_model("seeded:32", price=str(price), **options)


def plan_of(found: Plan) -> str:
    """Return the id of a plan that has anything to do."""
    assert found.plan_id is not None
    return found.plan_id


@pytest.fixture
async def edited(notes: Project) -> Project:
    """Return four indexed notes of which one was then changed, one removed, one duplicated and one added."""
    notes.write("notes/one.txt", "note one, changed")
    (notes.folder / "notes" / "two.txt").unlink()
    notes.write("notes/double.txt", "note three")
    notes.write("notes/five.txt", "note five")
    notes.write("notes/six.txt", "note five")
    return notes


async def test_plan_changes_and_sends_nothing(edited: Project) -> None:
    """A plan leaves cursor, documents, chunks and runs as they are, and pays for nothing."""
    async with await edited.open() as bed:
        before = await state(bed)
        found = await bed.plan()
        assert await state(bed) == before
    assert edited.sent() == {}
    assert (found.new, found.changed, found.deleted, found.documents) == (3, 1, 1, 5)
    assert (found.reused, dict(found.reuse)) == (
        2,
        {"repeated": 1, "submitted": 0, "cached": 1, "indexed": 0},
    )


async def test_plan_unchanged_state_gives_the_same_plan(edited: Project) -> None:
    """The id and the staged bytes stay the same while nothing changes; after an edit the id differs."""
    async with await edited.open() as bed:
        first = await bed.plan()
        before = staged(edited)
        assert (await bed.plan()).plan_id == first.plan_id
    assert staged(edited) == before
    assert f"{first.plan_id}/plan.json" in before
    edited.write("notes/five.txt", "note five, edited")
    async with await edited.open() as bed:
        assert (await bed.plan()).plan_id != first.plan_id


async def test_plan_nothing_to_do_stages_nothing(notes: Project) -> None:
    """A plan without work has no id, and leaves nothing behind."""
    async with await notes.open() as bed:
        found = await bed.plan()
    assert (found.plan_id, found.tokens, found.documents) == (None, 0, 0)
    assert staged(notes) == {}


async def test_run_plan_does_what_was_staged(edited: Project) -> None:
    """The run embeds the texts that were planned, for the tokens that were planned, and reports both."""
    async with await edited.open() as bed:
        found = await bed.plan()
        report = await bed.run(plan=plan_of(found))
    assert report.planned is not None
    assert report.planned.tokens == found.tokens == report.tokens > 0
    assert (report.planned.chunks, report.planned.deleted) == (report.chunks, report.deleted) == (4, 1)
    assert (report.fetched, report.reused, report.failed, dict(report.drift)) == (4, found.reused, 0, {})
    assert sorted(edited.documents("notes")) == [
        f"notes#{name}.txt#00000" for name in ("double", "five", "four", "one", "six", "three")
    ]
    async with await edited.open() as bed:
        assert (await bed.plan()).plan_id is None


async def test_run_plan_leaves_later_edits_for_the_next_run(edited: Project) -> None:
    """Edits made after the plan are neither embedded nor searchable until the next run, which then takes them."""
    async with await edited.open() as bed:
        found = await bed.plan()
        edited.write("notes/five.txt", "note five, later")
        edited.write("notes/seven.txt", "note seven")
        (edited.folder / "notes" / "four.txt").unlink()
        report = await bed.run(plan=plan_of(found))
        assert (report.chunks, report.deleted, report.tokens) == (4, 1, found.tokens)
        there = edited.documents("notes")
        assert there["notes#five.txt#00000"] == "note five"
        assert "notes#seven.txt#00000" not in there
        assert "notes#four.txt#00000" in there
        after = await bed.run()
        assert (after.chunks, after.deleted) == (2, 1)
    assert edited.documents("notes")["notes#five.txt#00000"] == "note five, later"


async def test_run_plan_twice_does_nothing_the_second_time(edited: Project) -> None:
    """The second time nothing is sent, written or moved, and the report says that nothing was left to do."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        first = await bed.run(plan=plan_id)
        edited.sent()
        before, index = await state(bed), edited.contents()
        again = await bed.run(plan=plan_id)
        assert await state(bed) == before
    assert first.planned is not None
    assert again.planned is not None
    assert (first.planned.already, again.planned.already) == (False, True)
    assert (again.chunks, again.deleted, again.embedded, again.failed) == (0, 0, 0, 0)
    assert edited.sent() == {}
    assert_same(edited.contents(), index)


async def test_run_plan_source_fetched_since_is_left_alone(edited: Project) -> None:
    """What another run has fetched since the plan is not undone, and the drift is reported with its number."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        edited.write("notes/one.txt", "note one, changed again")
        edited.write("notes/six.txt", "note six after all")
        await bed.run()
        index = edited.contents()
        edited.sent()
        report = await bed.run(plan=plan_id)
    assert set(report.drift) == {"notes"}
    assert "2 of the 5 documents" in report.drift["notes"]
    assert (report.chunks, report.deleted, report.embedded) == (0, 0, 0)
    assert edited.sent() == {}
    assert_same(edited.contents(), index)


async def test_run_plan_already_done_by_another_run_has_no_drift(edited: Project) -> None:
    """Where a plain run has done what was planned, running the plan says that nothing was left."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        await bed.run()
        report = await bed.run(plan=plan_id)
    assert dict(report.drift) == {}
    assert report.planned is not None
    assert report.planned.already


async def test_run_plan_drift_in_one_source_leaves_the_other_running(edited: Project) -> None:
    """Of two planned sources the one fetched since is reported, and the other is released."""
    edited.write("more/a.txt", "more a")
    async with await edited.open() as bed:
        await bed.add("more", kind="files", location="more")
        plan_id = plan_of(await bed.plan())
        edited.write("notes/one.txt", "note one, another time")
        await bed.run("notes")
        report = await bed.run(plan=plan_id)
    assert set(report.drift) == {"notes"}
    assert (report.chunks, report.fetched) == (1, 1)
    assert edited.documents("more") == {"more#a.txt#00000": "more a"}


async def test_run_plan_source_removed_or_changed_is_reported(edited: Project) -> None:
    """A source that was removed from the settings, or has other chunking rules now, is left alone with the reason."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        await bed.add("notes", kind="files", location="notes", options={"capacity": 30})
        report = await bed.run(plan=plan_id)
        assert "settings have changed" in report.drift["notes"]
    file = edited.folder / "flowbed.toml"
    file.write_text(file.read_text("utf-8").partition("[sources.notes]")[0], "utf-8")
    async with await edited.open() as bed:
        report = await bed.run(plan=plan_id)
        assert "not a source of the project any more" in report.drift["notes"]
        assert report.chunks == 0


async def test_run_plan_for_another_model_is_refused(edited: Project) -> None:
    """A plan made in one space is not run in another."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
    edited.set_model("seeded:16")
    async with await edited.open() as bed:
        with pytest.raises(Misconfigured, match="was made for model seeded:32"):
            await bed.run(plan=plan_id)


@pytest.mark.parametrize("name", ["0123456789abcdef", "../../ledger", "", "ABC"])
async def test_run_plan_unknown_is_refused(notes: Project, name: str) -> None:
    """An id that no plan has is answered with how to make one."""
    async with await notes.open() as bed:
        with pytest.raises(NotFound, match="`flowbed plan` makes one"):
            await bed.run(plan=name)


async def test_run_plan_with_other_selections_is_refused(edited: Project) -> None:
    """Source names and `allow_deletes` would change what was planned: they are refused."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        with pytest.raises(Rejected, match="already says what to do"):
            await bed.run("notes", plan=plan_id)
        with pytest.raises(Rejected, match="already says what to do"):
            await bed.run(plan=plan_id, allow_deletes=True)


async def test_run_plan_damaged_is_refused(edited: Project) -> None:
    """A part that was changed or lost is reported, and nothing of that source is embedded."""
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        folder = edited.folder / ".flowbed" / "store" / "plans" / plan_id / "notes"
        for rows in folder.glob("rows_*.json"):
            rows.write_bytes(rows.read_bytes().replace(b"note", b"nope"))
        report = await bed.run(plan=plan_id)
        assert "is damaged" in report.failures[0].reason
        for rows in folder.glob("rows_*.json"):
            rows.unlink()
        report = await bed.run(plan=plan_id)
        assert "is missing" in report.failures[0].reason
        (folder.parent / "plan.json").write_text('{"format": 1}')
        with pytest.raises(Rejected, match="cannot be read"):
            await bed.run(plan=plan_id)
    assert report.chunks == 0


async def test_plan_includes_waiting_chunks_without_replaced_texts(notes: Project) -> None:
    """Chunks left by an earlier run count once, with the text that would be sent, which may be a newer one."""
    for number in range(4):
        notes.write(f"notes/wait{number}.txt", f"waits {number}")
    async with await notes.open() as bed:
        await bed.run(limit=1)
        notes.write("notes/wait2.txt", "waits no more as number two")
        found = await bed.plan()
        assert (found.new, found.changed) == (0, 1)
        assert found.waiting + found.changed == 3
        report = await bed.run(plan=plan_of(found))
        assert (report.tokens, report.chunks, report.waiting) == (found.tokens, 3, 0)


async def test_run_plan_leaves_unplanned_waiting_chunks(notes: Project) -> None:
    """Chunks of a source that was not planned keep waiting while a plan is run."""
    notes.write("more/a.txt", "more a")
    notes.write("more/b.txt", "more b")
    notes.write("notes/nine.txt", "note nine")
    async with await notes.open() as bed:
        await bed.add("more", kind="files", location="more", collection="notes")
        await bed.run("more", limit=1)
        report = await bed.run(plan=plan_of(await bed.plan("notes")))
        assert (report.chunks, report.waiting) == (1, 1)
        assert (await bed.run()).chunks == 1


async def test_run_plan_too_old_is_refused_and_can_be_dropped(
    edited: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a week a plan is not run any more and counts as expired, as does one that was never complete."""
    from flowbed.wiring import process

    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        half = edited.folder / ".flowbed" / "store" / "plans" / "00000000000000ff" / "notes" / "rows_1.json"
        half.parent.mkdir(parents=True)
        half.write_text("{}")
        now = process.now()
        assert await expired_plans(bed._store, now=now) == []
        later = now + KEPT + 60_000_000
        assert await expired_plans(bed._store, now=later) == ["00000000000000ff", plan_id]
        with monkeypatch.context() as patch:
            patch.setattr(process, "now", lambda: later)
            with pytest.raises(Rejected, match="more than 7 days ago"):
                await bed.run(plan=plan_id)
        await drop_plans(bed._store, ["00000000000000ff", plan_id])
        assert staged(edited) == {}
        with pytest.raises(NotFound):
            await bed.run(plan=plan_id)


@pytest.mark.parametrize("damage", ["age", "plan.json", "rows_*.json", "batch_*.json"])
async def test_plan_unusable_staged_plan_is_replaced(
    edited: Project, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Planning again, as the refusal of an old or damaged plan suggests, gives one that can be run."""
    from flowbed.wiring import process

    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan())
        folder = edited.folder / ".flowbed" / "store" / "plans" / plan_id
        if damage == "age":
            later = process.now() + KEPT + 60_000_000
            monkeypatch.setattr(process, "now", lambda: later)
        elif damage == "plan.json":
            (folder / damage).write_text("{}")
        else:
            for path in (folder / "notes").glob(damage):
                path.unlink()
        report = await bed.run(plan=plan_of(await bed.plan()))
        assert (report.failures, report.chunks, report.deleted) == ((), 4, 1)


async def test_run_plan_removes_a_source(edited: Project) -> None:
    """The rest of a source that was removed from the settings can be planned and deleted; twice does nothing more."""
    file = edited.folder / "flowbed.toml"
    file.write_text(file.read_text("utf-8").partition("[sources.notes]")[0], "utf-8")
    async with await edited.open() as bed:
        plan_id = plan_of(await bed.plan("notes", allow_deletes=True))
        report = await bed.run(plan=plan_id)
        assert (report.deleted, dict(report.drift)) == (4, {})
        report = await bed.run(plan=plan_id)
        assert (report.deleted, dict(report.drift)) == (0, {})
    assert edited.documents("notes") == {}


async def test_run_plan_two_at_once_share_the_work(edited: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two concurrent runs of one plan end in the index of one run, and send the text of each chunk once."""
    monkeypatch.setattr(stretches, "BATCH_CHUNKS", 1)
    monkeypatch.setattr(stretches, "READ_AT_ONCE", 1)
    async with await edited.open() as one, await edited.open() as two:
        plan_id = plan_of(await one.plan())
        reports = await asyncio.gather(one.run(plan=plan_id), two.run(plan=plan_id))
    assert [dict(each.drift) for each in reports] == [{}, {}]
    # Two documents share a text, and each run may have claimed one of them.
    assert sorted(edited.sent().values()) in ([1, 1], [1, 2])
    async with await edited.open() as bed:
        assert (await bed.plan()).plan_id is None


async def test_run_plan_reports_the_plans_problems_and_withheld_deletions(project: Project) -> None:
    """The problems that a plan found become dead letters when it is run, as in a plain run."""
    lines = [{"id": n, "text": f"{project.folder} text {n}"} for n in range(3)]
    project.write_lines("lines.jsonl", [*lines, {"id": 9}])
    async with await project.open() as bed:
        await bed.add("lines", kind="jsonl", location="lines.jsonl")
        found = await bed.plan()
        report = await bed.run(plan=plan_of(found))
        assert [each.subject for each in report.failures] == ["lines.jsonl:4"] == [found.problems[0].subject]
        assert [each.subject for each in await bed.dead_letters()] == ["lines.jsonl:4"]
        project.write_lines("lines.jsonl", [*lines, {"id": 9, "text": f"{project.folder} mended"}])
        assert (await bed.run()).failed == 0
        assert await bed.dead_letters() == []


async def test_plan_unreadable_source_leaves_the_other_planned(edited: Project) -> None:
    """A source that fails is reported, and the others are planned, as in a run."""
    edited.write("more/a.txt", "a")
    async with await edited.open() as bed:
        await bed.add("more", kind="files", location="more")
        shutil.rmtree(edited.folder / "more")
        found = await bed.plan()
        assert found.new == 3
        assert [each.subject for each in found.problems] == ["source more"]
        with pytest.raises(Misconfigured):
            await bed.plan("more")


async def test_plan_time_comes_from_runs_of_this_model(edited: Project) -> None:
    """A plan's seconds are a guess until a run of the model was timed."""
    async with await edited.open() as bed:
        found = await bed.plan()
        assert found.timed_runs == 1
        run = (await bed._ledger.runs.recent(limit=1))[0]
        assert found.lanes["realtime"] is not None
        assert found.lanes["realtime"].seconds == round(found.tokens / (run.tokens / run.seconds), 1)
    (edited.folder / "flowbed.toml").write_text('model = "seeded:16"\nstore = "other"\nledger = "other.db"\n')
    async with await edited.open() as bed:
        await bed.add("notes", kind="files", location="notes")
        assert (await bed.plan()).timed_runs == 0


async def test_run_plan_costs_no_more_than_planned(edited: Project) -> None:
    """A run of a plan stops before it pays more than planned, as when the cache it relied on is lost."""
    priced(edited)
    for number in range(20):
        edited.write(f"notes/many{number}.txt", f"many {number}")
    async with await edited.open() as bed:
        await bed.run()
        for number in range(20):
            edited.write(f"notes/many{number}.txt", f"other {number}")
        await bed.run()
        for number in range(20):
            edited.write(f"notes/many{number}.txt", f"many {number}")
        edited.write("notes/new.txt", "new")
        found = await bed.plan()
        assert found.reuse["cached"] == 20
    shutil.rmtree(edited.folder / ".flowbed" / "vectors")
    edited.sent()
    async with await edited.open() as bed:
        report = await bed.run(plan=plan_of(found))
        assert report.planned is not None
        assert report.cost_usd <= report.planned.cost_usd * 1.1
        assert "would exceed the budget" in report.failures[-1].reason
        assert report.waiting == 20
        assert sum(edited.sent().values()) == 1
        assert (await bed.run(plan=plan_of(found), budget=10.0)).waiting == 0


async def test_stage_existing_plan_is_kept(edited: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object of a plan is ever overwritten: a second writer keeps the first one's."""
    async with await edited.open() as bed:
        puts: list[str] = []
        create = bed._store.create

        async def watched(key: str, body: bytes) -> str:
            puts.append(key)
            return await create(key, body)

        async def refused(key: str, *rest: object, **more: object) -> None:
            raise Conflict(key)

        monkeypatch.setattr(bed._store, "create", watched)
        monkeypatch.setattr(bed._store, "put", refused)
        monkeypatch.setattr(bed._store, "replace", refused)
        plan_id = plan_of(await bed.plan())
    assert puts[-1] == f"plans/{plan_id}/plan.json"
    assert all(key.startswith(f"plans/{plan_id}/notes/") for key in puts[:-1])
    manifest = json.loads(staged(edited)[f"{plan_id}/plan.json"])
    assert manifest["plan_id"] == plan_id
