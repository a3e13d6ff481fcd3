"""The rows that differ between two versions of an index."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import NotFound
from flowbed.index.compaction import compact
from flowbed.index.versions.changes import changes
from flowbed.index.versions.history import restore
from flowbed.index.versions.retention import NOTHING

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes


async def live_of(bench: Bench) -> Live:
    return await bench.datasets.begin("docs", bench.space, now=1)


async def version_of(bench: Bench) -> int:
    dataset = await bench.datasets.open(await live_of(bench))
    assert dataset is not None
    return int(dataset.version)


def upserts(found: Changes) -> dict[str, str]:
    return {row["id"]: row["document"] for batch in found.batches(size=2) for row in batch.to_pylist()}


async def rows_at(bench: Bench, version: int) -> dict[str, Any]:
    dataset = await bench.datasets.open(await live_of(bench), version=version)
    assert dataset is not None
    found = dataset.to_table(filter="deleted = false").to_pylist()
    return {row["id"]: (row["document"], row["metadata"]) for row in found}


async def test_changes_from_nothing_are_all_live_rows(bench: Bench) -> None:
    await bench.lay_down([bench.upsert("a", 1), bench.upsert("b", 1)], {"c": 1})
    await bench.commit()
    found = await changes(await live_of(bench), None, await version_of(bench), datasets=bench.datasets)
    assert (found.rows, found.upserts, found.deleted) == (2, 2, ())
    assert upserts(found) == {"a": "text of a", "b": "text of b"}


async def test_changes_between_versions_are_what_differs_and_nothing_else(bench: Bench) -> None:
    await bench.lay_down([bench.upsert(each, 1) for each in "abcd"])
    await bench.commit()
    first = await version_of(bench)
    await bench.lay_down([bench.upsert("b", 2, "new"), bench.upsert("e", 2)], {"c": 2})
    await bench.commit()
    found = await changes(await live_of(bench), first, await version_of(bench), datasets=bench.datasets)
    assert (found.rows, found.upserts, found.deleted) == (4, 2, ("c",))
    assert upserts(found) == {"b": "new", "e": "text of e"}


async def test_changes_after_a_compaction_are_none(bench: Bench) -> None:
    for number in range(4):
        await bench.lay_down([bench.upsert(f"row-{number}", number + 1)])
        await bench.commit()
    before = await version_of(bench)
    await compact(
        await live_of(bench),
        datasets=bench.datasets,
        vector_index="never",
        oldest_pending=None,
        now=bench.clock(),
        retention=None,
        only_if_due=False,
    )
    after = await version_of(bench)
    assert after > before
    found = await changes(await live_of(bench), before, after, datasets=bench.datasets)
    assert (found.rows, found.upserts, found.deleted) == (4, 0, ())


async def test_changes_across_a_rollback_lead_back(bench: Bench) -> None:
    await bench.lay_down([bench.upsert("a", 1), bench.upsert("b", 1)])
    await bench.commit()
    first = await version_of(bench)
    await bench.lay_down([bench.upsert("a", 2, "edited"), bench.upsert("c", 2)], {"b": 2})
    await bench.commit()
    second = await version_of(bench)
    third = await restore(await live_of(bench), first, datasets=bench.datasets)
    found = await changes(await live_of(bench), second, third, datasets=bench.datasets)
    assert (upserts(found), found.deleted) == ({"a": "text of a", "b": "text of b"}, ("c",))


async def test_changes_from_a_version_that_was_dropped_are_refused(bench: Bench) -> None:
    await bench.lay_down([bench.upsert("a", 1)])
    await bench.commit()
    first = await version_of(bench)
    await bench.lay_down([bench.upsert("a", 2, "edited")])
    await bench.commit()
    await compact(
        await live_of(bench),
        datasets=bench.datasets,
        vector_index="never",
        oldest_pending=None,
        now=bench.clock(),
        retention=NOTHING,
        only_if_due=False,
    )
    with pytest.raises(NotFound, match="no version"):
        await changes(await live_of(bench), first, await version_of(bench), datasets=bench.datasets)


@pytest.mark.parametrize("seed", range(6))
async def test_changes_applied_to_the_older_version_give_the_newer_one(bench: Bench, seed: int) -> None:
    """Between any two versions, whatever was committed, compacted or restored in between."""
    chance = random.Random(seed)
    seen: list[int] = []
    for step in range(1, 9):
        match chance.randrange(5):
            case 0 if seen:
                await restore(await live_of(bench), chance.choice(seen), datasets=bench.datasets)
            case 1 if seen:
                await compact(
                    await live_of(bench),
                    datasets=bench.datasets,
                    vector_index="never",
                    oldest_pending=None,
                    now=bench.clock(),
                    retention=None,
                    only_if_due=False,
                )
            case _:
                chosen = chance.sample("abcdefgh", 4)
                edits = [bench.upsert(each, step, f"{each} {step}", step=step) for each in chosen[:3]]
                await bench.lay_down(edits, {chosen[3]: step})
                await bench.commit()
        seen.append(await version_of(bench))
    for _ in range(6):
        start, end = chance.choice(seen), chance.choice(seen)
        found = await changes(await live_of(bench), start, end, datasets=bench.datasets)
        rows = await rows_at(bench, start)
        for each in found.deleted:
            del rows[each]
        for batch in found.batches(size=3):
            rows.update({row["id"]: (row["document"], row["metadata"]) for row in batch.to_pylist()})
        assert rows == await rows_at(bench, end)
        assert found.rows == len(rows)
