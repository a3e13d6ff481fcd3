"""Deltas and their commit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.errors import Conflict, Misconfigured, Rejected
from flowbed.index.active_space import live_collection
from flowbed.index.commit import RETENTION
from flowbed.index.deltas import Delete, Upsert, decode, encode, newest, row_set, table, write_delta
from flowbed.index.versions.history import restore
from flowbed.ledger import Rollback
from flowbed.records import Space, Status, run_id
from flowbed.testing.ledger import put

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.index.conftest import Bench

OTHER = Space(model="other", dimensions=8)


async def test_commit_rows_keep_document_metadata_version_run_and_vector(bench: Bench) -> None:
    run = await bench.lay_down([bench.upsert("a", 5, "hello", shop="x", n=1)])
    committed = await bench.commit()
    row = (await bench.rows())["a"]
    assert (row["document"], row["version"], row["run_id"]) == ("hello", 5, run.id)
    assert row["metadata"] == '{"n":1,"shop":"x"}'
    np.testing.assert_array_equal(np.float32(row["vector"]), bench.upsert("a", 5, "hello").vector)
    assert committed.version is not None
    assert committed.refused == ()
    stored = await bench.ledger.runs.get(run.id)
    assert stored is not None
    assert (stored.state, stored.version) == ("committed", committed.version)


async def test_commit_last_writer_wins_in_any_order(bench: Bench) -> None:
    """Deltas are committed together or one by one."""
    await bench.lay_down([bench.upsert("a", 7, "new")])
    await bench.commit()
    await bench.lay_down([bench.upsert("a", 6, "old"), bench.upsert("b", 1)])
    await bench.lay_down([bench.upsert("b", 2, "newer b")])
    await bench.commit()
    rows = await bench.rows()
    assert (rows["a"]["document"], rows["b"]["document"]) == ("new", "newer b")


async def test_commit_older_delta_does_not_restore_a_deleted_row(bench: Bench) -> None:
    """A newer one does."""
    await bench.lay_down([bench.upsert("a", 1)])
    await bench.lay_down(deletes={"a": 3})
    await bench.commit()
    await bench.lay_down([bench.upsert("a", 2)])
    await bench.commit()
    assert await bench.rows() == {}
    await bench.lay_down([bench.upsert("a", 4, "back")])
    await bench.commit()
    assert (await bench.rows())["a"]["document"] == "back"


async def test_commit_repeated_changes_nothing(bench: Bench) -> None:
    """A commit whose runs were not marked is carried out again."""
    run = await bench.lay_down([bench.upsert("a", 1), bench.upsert("b", 1)], deletes={"c": 1})
    await bench.commit()
    before = await bench.rows()
    await put(bench.ledger, [])
    again = dataclasses.replace(run, id=run.id, state="pending")
    await bench.ledger.runs.record(again, [], worker="w")
    await bench.commit()
    assert await bench.rows() == before


async def test_commit_undone_before_its_runs_are_marked_merges_them_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback between the merge and the mark makes the mark void: the runs are merged onto the rollback."""
    await bench.lay_down([bench.upsert("a", 1)])
    target = (await bench.commit()).version
    assert target is not None
    run = await bench.lay_down([bench.upsert("b", 1)])
    mark = bench.ledger.runs.commit

    async def overtaken(runs: Collection[str], **how: int) -> None:
        monkeypatch.undo()
        live = await bench.datasets.begin("docs", bench.space, now=1)
        version = await restore(live, target, datasets=bench.datasets)
        done = Rollback(collection="docs", target=target, version=version, at=1)
        await bench.ledger.rollbacks.record(done, kept=())
        await mark(runs, **how)

    monkeypatch.setattr(bench.ledger.runs, "commit", overtaken)
    committed = await bench.commit()
    assert set(await bench.rows()) == {"a", "b"}
    stored = await bench.ledger.runs.get(run.id)
    assert stored is not None
    assert (stored.state, stored.version) == ("committed", committed.version)


@given(
    deltas=st.lists(
        st.dictionaries(
            st.sampled_from("abcd"), st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=5,
    ),
    shuffled=st.randoms(use_true_random=False),
)
def test_newest_any_order_and_grouping_keeps_the_same_rows(
    deltas: list[dict[str, tuple[int, bool]]], shuffled: Any
) -> None:
    space = Space(model="m", dimensions=1)
    tables = []
    for at, rows in enumerate(deltas):
        upserts = [
            Upsert(
                id=id, version=v, document=f"{at}", metadata={}, text_hash="t", vector=np.ones(1, np.float32)
            )
            for id, (v, gone) in rows.items()
            if not gone
        ]
        deletes = [Delete(id=id, version=v) for id, (v, gone) in rows.items() if gone]
        tables.append(table(f"run{at}", space, upserts, deletes))

    def key(found: pa.Table) -> list[Any]:
        return sorted(
            zip(found["run_id"].to_pylist(), row_set(found), strict=True), key=lambda each: each[1][0]
        )

    whole = key(newest(tables))
    middle = len(tables) // 2
    shuffled.shuffle(tables)
    parts = [newest(part) for part in (tables[:middle], tables[middle:]) if part]
    assert key(newest(parts)) == whole
    expected = {
        id: max(
            (v, f"run{at}") for at, rows in enumerate(deltas) for name, (v, _) in rows.items() if name == id
        )
        for rows in deltas
        for id in rows
    }
    assert {row[0]: (row[1], run) for run, row in whole} == expected


async def test_run_id_depends_on_content_and_not_on_order(bench: Bench) -> None:
    """A subset of the rows is another run."""
    rows = [bench.upsert("a", 1), bench.upsert("b", 1)]
    first = await write_delta(bench.store, "docs", bench.space, rows, [], now=1)
    again = await write_delta(bench.store, "docs", bench.space, rows[::-1], [], now=2)
    part = await write_delta(bench.store, "docs", bench.space, rows[:1], [], now=3)
    assert (first.run, first.sha256) == (again.run, again.sha256)
    assert part.run != first.run
    assert first.run == run_id(
        "docs", bench.space, [("b", 1, False, rows[1].text_hash), ("a", 1, False, rows[0].text_hash)]
    )


@pytest.mark.parametrize("body", [b"", b"junk", b"ARROW1\0\0"])
async def test_write_delta_key_with_other_content_is_a_conflict(bench: Bench, body: bytes) -> None:
    rows = [bench.upsert("a", 1)]
    delta = await write_delta(bench.store, "docs", bench.space, rows, [], now=1)
    await bench.store.put(delta.key, body)
    with pytest.raises(Conflict, match="remove it and run again"):
        await write_delta(bench.store, "docs", bench.space, rows, [], now=1)


async def truncate(bench: Bench, key: str) -> None:
    """Cut a delta short."""
    body = (await bench.store.get(key)).body
    await bench.store.put(key, body[: len(body) // 2])


async def flip(bench: Bench, key: str) -> None:
    """Change one byte of a delta."""
    body = bytearray((await bench.store.get(key)).body)
    body[len(body) // 2] ^= 1
    await bench.store.put(key, bytes(body))


async def remove(bench: Bench, key: str) -> None:
    """Remove a delta."""
    await bench.store.delete([key])


@pytest.mark.parametrize(
    ("damage", "says"),
    [(truncate, "sha256"), (flip, "sha256"), (remove, "missing")],
    ids=["cut", "flipped", "gone"],
)
async def test_commit_damaged_delta_is_refused_and_the_rest_merged(
    bench: Bench, damage: Callable[[Bench, str], Any], says: str
) -> None:
    """It becomes a dead letter with the reason."""
    bad = await bench.lay_down([bench.upsert("a", 1)])
    await bench.lay_down([bench.upsert("b", 1)])
    await damage(bench, bad.key)
    committed = await bench.commit()
    assert list(await bench.rows()) == ["b"]
    (refused,) = committed.refused
    assert says in refused.reason
    letters = [letter async for page in bench.ledger.dead_letters.pages() for letter in page]
    assert [(letter.kind, letter.subject) for letter in letters] == [("run", bad.id)]
    assert says in letters[0].reason
    row = await bench.ledger.runs.get(bad.id)
    assert row is not None
    assert row.state == "refused"
    assert (await bench.commit()).version is None


async def test_commit_delta_of_another_space_is_refused(bench: Bench) -> None:
    """Whether the run or the delta names the other space."""
    await bench.lay_down([bench.upsert("a", 1)])
    await bench.commit()
    bench.space = OTHER
    honest = await bench.lay_down([bench.upsert("b", 1)])
    lying = await bench.lay_down([bench.upsert("c", 1)], space=Space(model="test", dimensions=8).to_json())
    committed = await bench.commit()
    assert {each.subject for each in committed.refused} == {honest.key, lying.key}
    assert all("space" in each.reason for each in committed.refused)
    bench.space = Space(model="test", dimensions=8)
    assert list(await bench.rows()) == ["a"]


def damaged(**columns: Any) -> bytes:
    """Write a delta of one row with columns replaced."""
    space = Space(model="m", dimensions=2)
    row = Upsert(id="a", version=1, document="d", metadata={}, text_hash="t", vector=np.ones(2, np.float32))
    whole = table("r", space, [row, dataclasses.replace(row, id="b")], [])
    for name, column in columns.items():
        whole = whole.set_column(whole.schema.get_field_index(name), whole.schema.field(name), column)
    return encode(whole, "r", space, now=1)


NAN = pa.FixedSizeListArray.from_arrays(pa.array([1.0, float("nan"), 1, 1], pa.float32()), 2)


@pytest.mark.parametrize(
    ("body", "rows", "says"),
    [
        (damaged(), 3, "3"),
        (damaged(id=pa.array(["a", "a"])), 2, "duplicate id"),
        (damaged(vector=NAN), 2, "not a number"),
        (damaged(deleted=pa.array([True, False])), 2, "deleted"),
        (damaged()[:-20], 2, "truncated"),
        (b"PK\3\4", 2, "truncated"),
    ],
)
def test_decode_invalid_delta_is_rejected(body: bytes, rows: int, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        decode(body, run="r", space=Space(model="m", dimensions=2), rows=rows)


async def test_begin_another_space_than_the_live_one_is_refused(bench: Bench) -> None:
    await bench.datasets.begin("docs", bench.space, now=1)
    with pytest.raises(Misconfigured, match="set the model back"):
        await bench.datasets.begin("docs", OTHER, now=2)
    live = await live_collection(bench.store, "docs")
    assert live is not None
    assert live.space == bench.space


async def test_commit_stale_delta_queues_its_chunks_again(bench: Bench) -> None:
    """It is older than the tombstones that are kept."""
    from flowbed.testing.ledger import chunk

    await bench.datasets.begin("docs", bench.space, now=1)
    old = bench.clock() - int(RETENTION.total_seconds() * 1e6) - 1
    await put(bench.ledger, [chunk("a", collection="docs", version=old)])
    await bench.ledger.chunks.claim(
        ["b"], {Status.NONE}, worker="w", now=1, until=2**60, sources=(), limit=10
    )
    run = await bench.lay_down([bench.upsert("a", old)], created=old)
    await bench.ledger.runs.record(run, [("a", old)], worker="w")
    assert (await bench.commit()).version is None
    (row,) = await bench.ledger.chunks.find("a")
    assert (row.status, row.version) == (Status.NONE, bench.clock())
