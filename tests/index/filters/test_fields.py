"""Which metadata a collection has, counted exactly, from some rows, and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Rejected
from flowbed.index.search import fields as counting
from flowbed.index.search.fields import fields

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.index.active_space import Live
    from flowbed.index.search.fields import Field


async def fill(bench: Bench, count: int = 40) -> Live:
    rows = [
        bench.upsert(
            f"s#{n:05d}",
            1,
            "",
            team="red" if n % 4 else "blue",
            n=n,
            odd=n % 2 == 1,
            one=1 if n % 2 else True,
            **({"rare": 1.5} if n == 3 else {}),
            note="x" * (300 if n == 5 else 10),
        )
        for n in range(count)
    ]
    await bench.lay_down(rows)
    await bench.commit()
    return await bench.datasets.begin("docs", bench.space, now=1)


def by_name(found: object) -> dict[str, Field]:
    return {each.name: each for each in found.fields}  # type: ignore[attr-defined]


def values(each: Field) -> list[tuple[object, int]]:
    return [(value.value, value.rows) for value in each.values]


async def test_fields_are_counted_by_type_with_the_commonest_first(bench: Bench) -> None:
    """1 and true are two values; a deleted row does not count, and a long text is no value."""
    live = await fill(bench)
    await bench.lay_down(deletes={"s#00000": 2})
    await bench.commit()
    found = await fields(live, datasets=bench.datasets, values=2)
    assert (found.rows, found.read) == (39, 39)
    assert found.fields[-1].name == "rare"
    named = by_name(found)
    assert values(named["team"]) == [("red", 30), ("blue", 9)]
    assert (named["team"].types, named["team"].distinct, named["team"].least) == ({"text": 39}, 2, None)
    assert (named["n"].least, named["n"].most, named["n"].distinct) == (1, 39, 39)
    assert len(named["n"].values) == 2
    assert named["one"].types == {"number": 20, "boolean": 19}
    assert [(value, type(value)) for value, _ in values(named["one"])] == [(1, int), (True, bool)]
    assert (named["rare"].rows, values(named["rare"])) == (1, [(1.5, 1)])
    assert (named["note"].rows, named["note"].distinct) == (39, None)


async def test_fields_of_matching_rows_count_only_these(bench: Bench) -> None:
    live = await fill(bench)
    found = await fields(live, datasets=bench.datasets, where={"team": "blue", "n": {"$lt": 9}})
    assert found.rows == 3
    assert values(by_name(found)["n"]) == [(0, 1), (4, 1), (8, 1)]
    with pytest.raises(Rejected, match="values is 0"):
        await fields(live, datasets=bench.datasets, values=0)


async def test_fields_of_many_rows_read_some_evenly_and_count_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 rows 500 are read, and of their values few are kept; the common ones are among them, fully counted."""
    monkeypatch.setattr(counting, "READ", 500)
    monkeypatch.setattr(counting, "COUNTED", 100)
    monkeypatch.setattr(counting, "BATCH", 37)
    live = await fill(bench, 2_000)
    found = await fields(live, datasets=bench.datasets)
    assert (found.rows, found.read) == (2_000, 500)
    named = by_name(found)
    assert dict(values(named["team"])) == {
        "red": pytest.approx(375, abs=5),
        "blue": pytest.approx(125, abs=5),
    }
    assert (named["n"].distinct, named["n"].rows) == (None, 500)


async def test_fields_of_countless_keys_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "KEYS", 5)
    await bench.lay_down([bench.upsert(str(n), 1, "", **{f"key{n}": n}) for n in range(20)])
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    assert len((await fields(live, datasets=bench.datasets)).fields) == 5
