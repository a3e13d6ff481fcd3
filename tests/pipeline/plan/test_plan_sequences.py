"""Any edits before and after a plan: its run does exactly what was planned, and later runs are correct."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st

from flowbed.bed import aopen
from flowbed.testing.index import assert_same, contents_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.bed import Flowbed
    from flowbed.records import Plan, Report

FILES = ("a.txt", "b.md", "c.txt", "below/d.txt")
# Few texts, so that they repeat, are shared, and move between files; an empty one makes no chunk.
EDIT = st.tuples(
    st.sampled_from(["docs", "more"]),
    st.sampled_from(FILES),
    st.sampled_from(["", "one", "two", "three", "# Head\n\nfour", None]),
)
EDITS = st.lists(EDIT, max_size=6)
# What happens between the plan and its run: nothing, a whole run of a source, or one that stops at once.
MEANWHILE = st.sampled_from(["nobody", "docs", "more", "part"])


@pytest.mark.parametrize("examples", [4, pytest.param(400, marks=pytest.mark.long)])
def test_plan_any_edits_before_and_after_does_what_was_planned(examples: int) -> None:
    """Sources not fetched since become as planned, the others stay unchanged, and a plain run completes all."""

    @hypothesis.settings(max_examples=examples, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    @hypothesis.given(st.lists(EDITS, min_size=4, max_size=4), MEANWHILE, st.booleans())
    def search(edits: Sequence[Sequence[tuple[str, str, str | None]]], meanwhile: str, left: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(carry_out(Path(folder), edits, meanwhile, left=left))

    search()


def write(folder: Path, edits: Sequence[tuple[str, str, str | None]]) -> None:
    for source, name, text in edits:
        if text is None:
            (folder / source / name).unlink(missing_ok=True)
        else:
            (folder / source / name).write_text(text, "utf-8")


def there(folder: Path, source: str) -> dict[str, str]:
    """Return the rows that the files of a source should have in the index."""
    found = {name: folder / source / name for name in FILES}
    return {
        f"{source}#{name}#00000": path.read_text("utf-8")
        for name, path in found.items()
        if path.exists() and path.read_text("utf-8")
    }


def indexed(folder: Path) -> dict[str, dict[str, str]]:
    rows = contents_of(folder).rows
    return {name: {key: row.document for key, row in rows.get(name, {}).items()} for name in ("docs", "more")}


async def carry_out(
    folder: Path, edits: Sequence[Sequence[tuple[str, str, str | None]]], meanwhile: str, *, left: bool
) -> None:
    (folder / "flowbed.toml").write_text('model = "seeded:16"\n', "utf-8")
    for source in ("docs", "more"):
        (folder / source / "below").mkdir(parents=True)
    async with await aopen(folder) as bed:
        for source in ("docs", "more"):
            await bed.add(source, kind="files", location=source)
        write(folder, edits[0])
        await bed.run(limit=1 if left else None)  # what that leaves to embed is part of the plan
        write(folder, edits[1])
        planned = {source: there(folder, source) for source in ("docs", "more")}
        plan = await bed.plan()
        assert (await bed.plan()).plan_id == plan.plan_id
        write(folder, edits[2])
        if meanwhile in planned:
            await bed.run(meanwhile)
        elif meanwhile == "part":
            await bed.run("docs", limit=1)
        before = indexed(folder)
        write(folder, edits[3])
        if plan.plan_id is not None:
            report = await bed.run(plan=plan.plan_id)
            check(folder, plan, report, planned, before, meanwhile)
            held = indexed(folder)
            again = await bed.run(plan=plan.plan_id)
            assert (again.chunks, again.deleted, again.embedded) == (0, 0, 0)
            assert dict(again.drift) == dict(report.drift)
            assert indexed(folder) == held
        await finished(bed, folder)


def check(
    folder: Path,
    plan: Plan,
    report: Report,
    planned: dict[str, dict[str, str]],
    before: dict[str, dict[str, str]],
    meanwhile: str,
) -> None:
    moved = {"docs"} if meanwhile == "part" else {meanwhile}
    assert report.failed == 0
    assert set(report.drift) <= moved
    now = indexed(folder)
    for source in {"docs", "more"} - moved:
        assert now[source] == planned[source]
    for source in moved & {"docs", "more"}:
        # Nothing is undone; only chunks that waited before the plan may have been embedded.
        assert {
            key: text for key, text in now[source].items() if before[source].get(key) != text
        }.items() <= (planned[source].items())
    if meanwhile == "nobody":
        assert (report.chunks, report.deleted) == (plan.new + plan.changed + plan.waiting, plan.deleted)
        assert (report.tokens, report.reused) == (plan.tokens, plan.reused)


async def finished(bed: Flowbed, folder: Path) -> None:
    """Check that a plain run ends in the index that a project without any plan makes of the same files."""
    assert (await bed.run()).failed == 0
    found = contents_of(folder)
    assert indexed(folder) == {source: there(folder, source) for source in ("docs", "more")}
    assert (await bed.plan()).plan_id is None
    anew = folder / "anew"
    for source in ("docs", "more"):
        for key, text in there(folder, source).items():
            path = anew / source / key.split("#")[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        (anew / source).mkdir(parents=True, exist_ok=True)
    (anew / "flowbed.toml").write_text('model = "seeded:16"\n', "utf-8")
    async with await aopen(anew) as other:
        for source in ("docs", "more"):
            await other.add(source, kind="files", location=source)
        await other.run()
    assert_same(found, contents_of(anew))
