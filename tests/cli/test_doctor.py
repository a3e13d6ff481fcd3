"""Every finding of the doctor: a project is damaged, the doctor names the damage, its command fixes it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import psutil
import pyarrow as pa
import pytest

import flowbed
from flowbed import bed as beds
from flowbed.errors import Misconfigured
from flowbed.index import compaction, lease, repair
from flowbed.index.deltas import Delete, Upsert, table, write_delta
from flowbed.index.schema import schema
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.ledger import DeadLetter, Failure, RunRow
from flowbed.maintenance.doctor import index, store
from flowbed.records import Space, Status, canonical
from flowbed.storage import files
from flowbed.testing.index import assert_same, contents_of
from flowbed.wiring import process as clocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cli.conftest import Called

    Call = Callable[..., Called]

DAY = 86_400
SPACE = Space(model="seeded:32", dimensions=32)
COLLECTION = "notes"


class Patient:
    """A project whose parts can be damaged and whose clock can be advanced."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self.store = folder / ".flowbed" / "store"
        self._real = clocks.now

    def later(self, seconds: float) -> None:
        """Advance the clock."""
        self.patch.setattr(clocks, "now", lambda: self._real() + int(seconds * 1e6))

    def act(self, work: Callable[[beds.Flowbed], Awaitable[Any]]) -> Any:
        """Run `work` on the opened project."""

        async def opened() -> Any:
            async with await beds.aopen(self.folder) as bed:
                return await work(bed)

        return asyncio.run(opened())

    @property
    def uri(self) -> str:
        """The path of the index."""
        return str(self.store / COLLECTION / "index" / f"{SPACE.space8}.lance")

    def rows(self) -> pa.Table:
        """Read the rows of the index."""
        return lance.dataset(self.uri).to_table()


@pytest.fixture
def patient(notes: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    """A healthy project of three indexed notes."""
    return Patient(notes.parent, monkeypatch)


def carry_out(command: str, flowbed: Call) -> None:
    """Run a command as a shell would, but Flowbed's own in this process."""
    for step in command.split(";"):
        name, _, rest = step.strip().partition(" ")
        if name == "flowbed":
            called = flowbed(*rest.split())
            assert "Traceback" not in called.err, called.err
        else:
            subprocess.run(["/bin/sh", "-c", step], check=True)


# The damages. Each does something to a project that is well.


def rewrite(patient: Patient, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Overwrite the index with other rows, without the ledger."""
    rows = change(patient.rows())
    lance.write_dataset(rows, patient.uri, mode="overwrite", data_storage_version="2.2", **options)


def lose_the_index(patient: Patient) -> None:
    """Delete the index, whose chunks count as indexed."""
    shutil.rmtree(patient.uri)


def lose_a_row(patient: Patient) -> None:
    """Delete a row of the index."""
    lance.dataset(patient.uri).delete("id = 'notes#tea.txt#00000'")


def set_column(name: str, value: Callable[[Any], Any]) -> Callable[[Patient], None]:
    """Change a column of the first row."""

    def change(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        values = rows[name].to_pylist()
        values[0] = value(values[0])
        return rows.set_column(place, field, pa.array(values, field.type))

    return lambda patient: rewrite(patient, change)


def age_a_row(patient: Patient) -> None:
    """Put a row back to before an edit."""
    before = patient.rows()
    (patient.folder / "notes" / "tea.txt").write_text("Coffee is served at four.\n")
    with flowbed.open(patient.folder) as bed:
        bed.run()
    rewrite(patient, lambda _: before)


def bring_a_row_back(patient: Patient) -> None:
    """Put a deleted row back."""
    before = patient.rows()
    (patient.folder / "notes" / "tea.txt").unlink()
    with flowbed.open(patient.folder) as bed:
        bed.run()
    rewrite(patient, lambda _: before)


def double_a_row(patient: Patient) -> None:
    """Add a second row with the same id."""
    lance.write_dataset(patient.rows().slice(0, 1), patient.uri, mode="append")


def add_a_row(name: str) -> Callable[[Patient], None]:
    """Add a row without a chunk."""

    def add(patient: Patient) -> None:
        vector = np.zeros(32, np.float32)
        vector[0] = 1
        row = Upsert(id=name, version=1, document="x", metadata={}, text_hash="0", vector=vector)
        lance.write_dataset(table("r", SPACE, [row], []), patient.uri, mode="append")

    return add


def drop_the_primary_key(patient: Patient) -> None:
    """Write the index without its primary key."""

    def change(rows: pa.Table) -> pa.Table:
        plain = rows.schema.set(0, pa.field("id", pa.string(), nullable=False))
        return pa.Table.from_arrays(rows.columns, schema=plain)

    rewrite(patient, change)


def shorten_vectors(patient: Patient) -> None:
    """Write vectors of other dimensions than the space has."""
    other = Space(model="other", dimensions=8)
    row = Upsert(
        id="notes#a#00000", version=1, document="", metadata={}, text_hash="", vector=np.ones(8, np.float32)
    )
    rewrite(patient, lambda _: table("r", other, [row], []))


def spoil_files(folder: str, *, gone: bool = False) -> Callable[[Patient], None]:
    """Truncate or delete files of the index."""

    def spoil(patient: Patient) -> None:
        for each in (Path(patient.uri) / folder).iterdir():
            each.unlink() if gone else os.truncate(each, 20)

    return spoil


def damage(key: str, body: str = "{") -> Callable[[Patient], None]:
    """Overwrite an object of the store."""
    return lambda patient: _put(patient, key, body)


def _put(patient: Patient, key: str, body: str) -> None:
    (patient.store / key).write_text(body)


def remove(key: str) -> Callable[[Patient], None]:
    """Delete an object of the store."""
    return lambda patient: (patient.store / key).unlink()


def lose_the_store(patient: Patient) -> None:
    """Delete the store but not the ledger."""
    shutil.rmtree(patient.store)


def lose_the_ledger(patient: Patient) -> None:
    """Delete the ledger but not the store."""
    for each in (patient.folder / ".flowbed").glob("ledger.db*"):
        each.unlink()


def open_to_everybody(patient: Patient) -> None:
    """Give everybody access, as earlier versions did."""
    (patient.folder / ".flowbed").chmod(0o755)


def lose_the_keys(patient: Patient) -> None:
    """Replace a ledger that had API keys by a new one."""
    patient.act(lambda bed: bed.keys().create("web", secret=bed.secret))
    lose_the_ledger(patient)
    with pytest.raises(Misconfigured):
        patient.act(lambda bed: bed.status())

    async def recover() -> None:
        async with await beds.aopen(patient.folder, repair=True) as bed:
            assert "its API keys are lost" in bed.rebound
            await bed.verify(repair=True)
            await bed.run()

    asyncio.run(recover())


def damage_the_ledger(patient: Patient) -> None:
    """Replace the ledger's file by one that is not a database."""
    lose_the_ledger(patient)
    (patient.folder / ".flowbed" / "ledger.db").write_text(
        "no database at all, and long enough to be sure of it"
    )


def die_before_embedding(patient: Patient) -> None:
    """Leave a run as killed after its fetch, three hours ago."""
    (patient.folder / "notes" / "new.txt").write_text("Never embedded.\n")
    with flowbed.open(patient.folder) as bed:
        bed.run(limit=0)
    patient.later(3 * 3600)


def claim_and_die(patient: Patient) -> None:
    """Leave a run as killed while it had claimed chunks."""
    die_before_embedding(patient)
    process = subprocess.Popen(["/bin/true"])
    started = time.time()
    process.wait()
    worker = f"{clocks.worker().split('/')[0]}/{process.pid}/{started:.2f}/0000"

    async def claim(bed: beds.Flowbed) -> None:
        chunks = bed._ledger.chunks
        async for page in chunks.batches({Status.NONE}, now=0, sources=()):
            for batch in page:
                await chunks.claim(
                    [batch], {Status.NONE}, worker=worker, now=0, until=10**18, sources=(), limit=10
                )

    patient.act(claim)


def die_before_the_commit(patient: Patient) -> None:
    """Leave a run as killed after it was recorded, half an hour ago."""
    patient.act(lambda bed: _record(bed, SPACE))
    patient.later(1800)


def record_another_space(patient: Patient) -> None:
    """Record a run with vectors of another space."""
    patient.act(lambda bed: _record(bed, Space(model="other", dimensions=32)))


async def _record(bed: beds.Flowbed, space: Space) -> None:
    """Write and record the delta of a waiting chunk, as a run does, but do not commit it."""
    (bed.folder / "notes" / "late.txt").write_text("Late.\n")
    await bed.run(limit=0)
    chunks = bed._ledger.chunks
    (row,) = await chunks.find("late.txt")
    claimed = await chunks.claim(
        [row.batch], {Status.NONE}, worker="w", now=1, until=10**18, sources=(), limit=1
    )
    vector = (await bed._embedders.cached().embed(["Late."], purpose="document")).vectors[0]
    (passage,), _ = await read_chunk_texts(claimed, store=bed._store, ledger=bed._ledger)
    upsert = Upsert(
        id=row.id,
        version=claimed[0].version,
        document=passage.text,
        metadata=passage.metadata,
        text_hash=row.text_hash,
        vector=vector,
    )
    delta = await write_delta(bed._store, COLLECTION, space, [upsert], [], now=clocks.now())
    await bed._ledger.runs.record(
        RunRow(
            id=delta.run, collection=COLLECTION, space=space.to_json(), key=delta.key, sha256=delta.sha256,
            rows=1, lane="realtime", worker="w", created=clocks.now(),
        ),
        [(row.id, claimed[0].version)],
        worker="w",
    )  # fmt: skip


def lose_a_delta(patient: Patient) -> None:
    """Delete the delta of a pending run."""
    patient.act(lambda bed: _record(bed, SPACE))
    shutil.rmtree(_newest_delta(patient).parent)


def damage_a_delta(patient: Patient) -> None:
    """Write to the delta of a pending run."""
    patient.act(lambda bed: _record(bed, SPACE))
    with _newest_delta(patient).open("ab") as file:
        file.write(b"x")


def _newest_delta(patient: Patient) -> Path:
    return max(
        (patient.store / COLLECTION / "delta").rglob("*.arrow"), key=lambda path: path.stat().st_mtime_ns
    )


def refuse_a_delta(patient: Patient) -> None:
    """Let a commit refuse a run, which becomes a dead letter."""
    damage_a_delta(patient)
    with flowbed.open(patient.folder) as bed:
        assert bed.run().failed == 1
    shutil.rmtree(_newest_delta(patient).parent)


def fail_a_chunk(patient: Patient) -> None:
    """Fail a chunk for a reason that has passed."""
    patient.act(lambda bed: _fail(bed, "it was down for maintenance"))


def fail_a_chunk_in_three_runs(patient: Patient) -> None:
    """Let three runs fail on one chunk, each for a reason that may pass."""

    async def fail(bed: beds.Flowbed) -> None:
        (bed.folder / "notes" / "new.txt").write_text("New.\n")
        await bed.run(limit=0)
        (row,) = await bed._ledger.chunks.find("new.txt")
        states = {Status.NONE, Status.FAILED}
        for _ in range(3):
            (held,) = await bed._ledger.chunks.claim(
                [row.batch], states, worker="w", now=1, until=10**18, sources=(), limit=1
            )
            failure = Failure(
                collection=COLLECTION,
                id=row.id,
                version=held.version,
                kind="transient",
                reason="answered 500",
            )
            await bed._ledger.chunks.fail([failure], worker="w")

    patient.act(fail)


def forget_the_letter(patient: Patient) -> None:
    """Fail a chunk without a dead letter."""
    fail_a_chunk(patient)
    patient.act(lambda bed: bed._ledger.dead_letters.remove("chunk"))


async def _fail(bed: beds.Flowbed, reason: str) -> None:
    (bed.folder / "notes" / "new.txt").write_text("New.\n")
    await bed.run(limit=0)
    (row,) = await bed._ledger.chunks.find("new.txt")
    await bed._ledger.chunks.claim(
        [row.batch], {Status.NONE}, worker="w", now=1, until=10**18, sources=(), limit=1
    )
    await bed._ledger.dead_letters.add(
        [DeadLetter(kind="chunk", owner=COLLECTION, subject=row.id, reason=reason, at=1)]
    )
    failure = Failure(collection=COLLECTION, id=row.id, version=row.version, kind="rejected", reason=reason)
    await bed._ledger.chunks.fail([failure], worker="w")


def spoil_a_document(patient: Patient) -> None:
    """Fail a document that is fixed by now."""
    file = patient.folder / "notes" / "tea.txt"
    file.write_bytes(b"\xff\x00\xd8")
    with flowbed.open(patient.folder) as bed:
        bed.run()
    assert patient.act(lambda bed: bed.dead_letters())
    file.write_text("Tea is served at four.\n")


def lose_a_text(patient: Patient) -> None:
    """Delete the batch file of a waiting chunk."""
    (patient.folder / "notes" / "new.txt").write_text("Its text is lost.\n")
    with flowbed.open(patient.folder) as bed:
        bed.run(limit=0)
    max(
        (patient.store / "notes" / "chunked").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns
    ).unlink()


def die_while_compacting(patient: Patient) -> None:
    """Leave a lease whose owner has ended."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    owner = f"{clocks.worker().split('/')[0]}/{process.pid}/1.00/0000"
    body = canonical({"owner": owner, "epoch": 3, "seq": 1, "ttl_s": 60, "released": False})
    _put(patient, "notes/lease.json", body.decode())


def hold_the_lease(owner: str, *, silent: float) -> Callable[[Patient], None]:
    """Leave a lease that `owner` renewed `silent` seconds ago."""

    def hold(patient: Patient) -> None:
        body = canonical({"owner": owner, "epoch": 3, "seq": 1, "ttl_s": 60, "released": False})
        _put(patient, "notes/lease.json", body.decode())
        ago = time.time() - silent
        os.utime(patient.store / "notes/lease.json", (ago, ago))
        patient.patch.setattr(lease, "PATIENCE", 0.01)

    return hold


def leave_the_index_behind(patient: Patient) -> None:
    """Replace two of the three rows for which the vector index was built."""
    with flowbed.open(patient.folder) as bed:
        bed.compact(COLLECTION, vector_index="always")
        for name in ("tea", "cats"):
            for each in (patient.folder / "notes").glob(f"{name}.*"):
                each.write_text(f"Another {name}.\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compaction, "SETTLED", 0.0)  # the run would see to it itself
            bed.run()


def remove_a_source(patient: Patient) -> None:
    """Remove a source from the settings; searches still find its documents."""
    file = patient.folder / "flowbed.toml"
    file.write_text(file.read_text().partition("[sources")[0])


def stop_removing_a_source(patient: Patient) -> None:
    """Remove a source, and stop before its rows are deleted."""
    remove_a_source(patient)
    patient.act(lambda bed: bed.run(COLLECTION, allow_deletes=True, limit=0))


def damage_the_cache(patient: Patient) -> None:
    """Replace the vector cache by a file that is not a database."""
    for each in (patient.folder / ".flowbed" / "vectors").glob("vectors.db*"):
        each.unlink()
    (patient.folder / ".flowbed" / "vectors" / "vectors.db").write_text("no database at all" * 1000)


def lay_down_and_die(patient: Patient) -> None:
    """Leave a run as killed between writing its delta and recording it; its chunk has changed since."""
    rows = [Delete(id="notes#tea.txt#00000", version=5)]
    patient.act(lambda bed: write_delta(bed._store, COLLECTION, SPACE, [], rows, now=1))
    _age(patient.store)
    patient.later(2 * DAY)


def leave_another_index(patient: Patient) -> None:
    """Add an index of a space that is not live."""
    uri = patient.store / COLLECTION / "index" / "01234567.lance"
    lance.write_dataset(schema(8).empty_table(), str(uri), data_storage_version="2.2")
    _age(patient.store)
    patient.later(2 * DAY)


def _age(folder: Path) -> None:
    hour_ago = time.time() - 3600
    for each in folder.rglob("*"):
        os.utime(each, (hour_ago, hour_ago))


def roll_back(patient: Patient) -> None:
    """Roll a version back."""
    patient.act(lambda bed: bed.rollback(COLLECTION, _edit(patient)))


def die_while_rolling_back(patient: Patient) -> None:
    """Roll a version back, but do not tell the ledger."""
    lance.dataset(patient.uri, version=_edit(patient)).restore()  # type: ignore[no-untyped-call]


def _edit(patient: Patient) -> int:
    """Edit a note, index it, and return the version before."""
    before = int(lance.dataset(patient.uri).version)
    (patient.folder / "notes" / "tea.txt").write_text("Coffee is served at four.\n")
    with flowbed.open(patient.folder) as bed:
        bed.run()
    return before


@dataclass(frozen=True)
class Case:
    """A damage, and the check that finds it."""

    damage: Callable[[Patient], None]
    check: str
    says: str
    severity: str = "error"
    # What the command itself changes: the rows of what is gone for good, or of what the damage put there.
    changes: bool = False


CASES = {
    "index missing": Case(lose_the_index, "index", "3 chunks missing from the index"),
    "row missing": Case(lose_a_row, "index", "1 chunk missing from the index"),
    "row stale": Case(age_a_row, "index", "with an outdated text", changes=True),
    "row ahead": Case(set_column("version", lambda value: 2**60), "index", "with a later version"),
    "document altered": Case(set_column("document", str.upper), "index", "other text or metadata"),
    "metadata altered": Case(set_column("metadata", lambda _: '{"a":1}'), "index", "other text or metadata"),
    "text hash altered": Case(set_column("text_hash", lambda _: "0" * 64), "index", "other text or metadata"),
    "vector of no length": Case(
        set_column("vector", lambda value: [0.0] * len(value)), "index", "unusable vector"
    ),
    "vector not normalised": Case(
        set_column("vector", lambda value: [1.0] * len(value)), "index", "unusable vector"
    ),
    "vector not finite": Case(
        set_column("vector", lambda value: [float("nan")] * len(value)), "index", "unusable vector"
    ),
    "vector missing": Case(set_column("vector", lambda _: None), "index", "unusable vector"),
    "deleted row back": Case(bring_a_row_back, "index", "of deleted chunks", changes=True),
    "row doubled": Case(double_a_row, "index", "a duplicate id"),
    "row unknown": Case(add_a_row("notes#who.txt#00000"), "index", "unknown to the ledger"),
    "id ill-formed": Case(add_a_row("who?"), "index", "an invalid id"),
    "primary key missing": Case(drop_the_primary_key, "index", "cannot be committed to"),
    "dimensions mixed": Case(shorten_vectors, "index", "cannot be committed to"),
    "index truncated": Case(spoil_files("data"), "index", "1 index that cannot be read"),
    "index without files": Case(spoil_files("data", gone=True), "index", "1 index that cannot be read"),
    "index without history": Case(spoil_files("_versions"), "index", "1 index that cannot be read"),
    "active.json damaged": Case(damage("notes/active.json"), "index", "whose live space is unknown"),
    "active.json missing": Case(remove("notes/active.json"), "index", "whose live space is unknown"),
    "flowbed.json damaged": Case(damage("flowbed.json"), "tie", "flowbed.json of store"),
    "flowbed.json without a ledger": Case(
        damage("flowbed.json", '{"format": 1}'), "tie", "belongs to another ledger"
    ),
    "store lost": Case(lose_the_store, "tie", "is empty"),
    "ledger lost": Case(lose_the_ledger, "tie", "belongs to another ledger"),
    "ledger damaged": Case(damage_the_ledger, "ledger", "no vector is paid for again"),
    "permissions": Case(open_to_everybody, "permissions", "every user of this machine", "warning"),
    "keys lost": Case(lose_the_keys, "keys", "the server will not start without keys", "warning"),
    "chunks unembedded": Case(die_before_embedding, "waiting", "1 chunk fetched", "warning", changes=True),
    "claims of the dead": Case(claim_and_die, "claims", "which has ended", "warning", changes=True),
    "run uncommitted": Case(die_before_the_commit, "runs", "but not committed", "warning", changes=True),
    "spaces mixed": Case(record_another_space, "index", "of another space", changes=True),
    "delta missing": Case(lose_a_delta, "index", "not in the store", changes=True),
    "delta damaged": Case(damage_a_delta, "index", "other bytes than the run recorded", changes=True),
    "run refused": Case(refuse_a_delta, "dead-letters", "1 dead letter of kind run", "warning", changes=True),
    "chunk refused": Case(fail_a_chunk, "dead-letters", "down for maintenance", "warning", changes=True),
    "failed without letter": Case(forget_the_letter, "failed", "without a dead letter", changes=True),
    "chunk fails in every run": Case(
        fail_a_chunk_in_three_runs,
        "failed",
        "failed in 3 runs or more, for a reason that should have passed; notes#new.txt#00000 in 3: answered 500",
        "warning",
        changes=True,
    ),
    "document refused": Case(spoil_a_document, "dead-letters", "of kind source", "warning"),
    "text lost": Case(lose_a_text, "index", "no longer in the batch file", changes=True),
    "lease of the dead": Case(die_while_compacting, "lease", "has ended", "warning"),
    "lease of nobody": Case(
        hold_the_lease("elsewhere:4242", silent=0), "lease", "elsewhere:4242 has ended", "warning"
    ),
    "lease elsewhere, silent": Case(
        hold_the_lease("elsewhere/4242/1.00/0000", silent=2 * DAY), "lease", "for 2,880 minutes", "warning"
    ),
    "vector index outgrown": Case(
        leave_the_index_behind, "vector-index", "built for 1 of the 3 rows", "warning", changes=True
    ),
    "lease damaged": Case(damage("notes/lease.json"), "lease", "cannot be read", "warning"),
    "source removed": Case(
        remove_a_source, "sources", "still find 3 documents of it", "warning", changes=True
    ),
    "source half removed": Case(
        stop_removing_a_source, "waiting", "3 chunks of it are not deleted yet", "warning", changes=True
    ),
    "vector cache damaged": Case(damage_the_cache, "cache", "paid for again", "warning"),
    "delta orphaned": Case(lay_down_and_die, "orphans", "belong to nothing", "warning"),
    "rolled back": Case(roll_back, "runs", "left out since a rollback", "note", changes=True),
    "rollback not recorded": Case(
        die_while_rolling_back, "runs", "left out since a rollback", "note", changes=True
    ),
    "index orphaned": Case(leave_another_index, "orphans", "belong to nothing", "warning"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_doctor_names_each_damage_and_the_command_that_fixes_it(
    case: Case, patient: Patient, flowbed: Call
) -> None:
    """After the command, the doctor finds nothing and the project verifies."""
    healthy = contents_of(patient.folder)
    case.damage(patient)
    called = flowbed("doctor", "--json")
    assert called.status == (0 if case.severity == "note" else 1), called
    found = [each for each in called.json["findings"] if each["check"] == case.check]
    (finding,) = [each for each in found if case.says in each["what"]]
    assert finding["severity"] == case.severity
    carry_out(finding["fix"], flowbed)
    silent = flowbed("doctor", "--json")
    assert silent.json["findings"] == []
    assert silent.status == 0
    assert flowbed("verify", "--json").json["faults"] == 0
    assert set(flowbed("status", "--json").json["chunks"]) <= {"SUCCESS"}
    if not case.changes:
        assert_same(contents_of(patient.folder), healthy)


def test_doctor_names_dead_letters_of_every_other_kind(patient: Patient, flowbed: Call) -> None:
    async def refuse(bed: beds.Flowbed) -> None:
        letters = [
            DeadLetter(kind=kind, owner="notes", subject=f"a {kind}", reason="it was cut off", at=1)
            for kind in ("batch", "subscriber", "task")
        ]
        await bed.ledger.dead_letters.add(letters)

    patient.act(refuse)
    assert [
        (each["subject"], each["what"].partition("; ")[0], each["fix"])
        for each in flowbed("doctor", "--json").json["findings"]
    ] == [
        (f"a {kind}", f"1 dead letter of kind {kind}: it was cut off", "flowbed dead-letters retry")
        for kind in ("batch", "subscriber", "task")
    ]


def test_doctor_in_words_says_what_is_wrong_and_the_command(patient: Patient, flowbed: Call) -> None:
    """A healthy project has no finding."""
    called = flowbed("doctor")
    assert called.status == 0
    assert called.out.endswith("checks found nothing wrong\n")
    lose_a_row(patient)
    called = flowbed("doctor")
    assert called.status == 1
    said, fix = called.out.splitlines()
    assert said.startswith("error: notes: 1 ")
    assert fix == "    flowbed verify notes --repair; flowbed run"


def test_doctor_of_a_store_in_use_by_another_ledger_suggests_no_repair(
    patient: Patient, flowbed: Call
) -> None:
    """Its command changes nothing, and the ledger's own store is what mends it."""
    damage("flowbed.json", '{"format": 1, "ledger": "another"}')(patient)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["fix"]) == ("tie", "flowbed doctor")
    assert "belongs to another ledger (another)" in finding["what"]
    assert "repair" not in finding["what"]
    carry_out(finding["fix"], flowbed)
    assert (patient.store / "flowbed.json").read_text() == '{"format": 1, "ledger": "another"}'


def test_status_counts_chunks_that_fail_in_run_after_run(patient: Patient, flowbed: Call) -> None:
    assert flowbed("status", "--json").json["repeated"] == 0
    fail_a_chunk_in_three_runs(patient)
    assert flowbed("status", "--json").json["repeated"] == 1
    assert "1 chunk failed in run after run; `flowbed doctor` says why" in flowbed("status").out
    assert flowbed("run").status == 0
    assert "run after run" not in flowbed("status").out


def test_doctor_lease_renewed_recently_on_another_host_is_no_finding(patient: Patient, flowbed: Call) -> None:
    hold_the_lease("elsewhere/4242/1.00/0000", silent=300)(patient)
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_waiting_chunks_while_a_run_is_working_are_no_finding(patient: Patient, flowbed: Call) -> None:
    """They are once no run is."""
    for name in ("late", "later"):
        (patient.folder / "notes" / f"{name}.txt").write_text(f"{name}\n")
    patient.act(lambda bed: bed.run(limit=0))

    async def claim_one(bed: beds.Flowbed) -> None:
        chunks, now = bed._ledger.chunks, clocks.now()
        (row,) = await chunks.find("late.txt")
        waiting = {Status.NONE}
        await chunks.claim(
            [row.batch], waiting, worker=clocks.worker(), now=now, until=now + 10**12, sources=(), limit=1
        )

    patient.later(7_200)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["what"][:9]) == ("waiting", "2 chunks ")
    patient.act(claim_one)
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_little_disk_space_is_a_warning_that_gc_fixes(
    patient: Patient, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"tea": "Coffee", "cats": "Dogs", "keys": "Locks"}.items():
        for each in (patient.folder / "notes").glob(f"{name}.*"):
            each.write_text(text)
    assert flowbed("run").status == 0
    patient.later(2 * DAY)

    def used() -> int:
        return sum(each.stat().st_size for each in patient.store.rglob("*.json") if each.is_file())

    size = used() + store.FREE_BYTES - 1

    class Usage:
        free = property(lambda _: size - used())

    monkeypatch.setattr(psutil, "disk_usage", lambda _: Usage())
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["severity"]) == ("disk", "warning")
    carry_out(finding["fix"], flowbed)
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_read_only_store_is_named_with_chmod(
    patient: Patient, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = files.Files._begin

    def begin(store: files.Files) -> Any:
        # Who may do everything is not stopped by a missing permission, as others are.
        if not store.root.stat().st_mode & stat.S_IWUSR:
            raise PermissionError(errno.EACCES, "Permission denied", str(store.root))
        return place(store)

    monkeypatch.setattr(files.Files, "_begin", begin)
    patient.store.chmod(0o500)
    found = flowbed("doctor", "--json").json["findings"]
    (finding,) = [each for each in found if each["check"] == "store"]
    assert "grant it" in finding["what"]
    carry_out(finding["fix"], flowbed)
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_many_unindexed_rows_are_named_with_compact(
    patient: Patient, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "INDEX_ROWS", 3)
    monkeypatch.setattr(index, "UNINDEXED", 1)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["fix"]) == ("vector-index", "flowbed compact notes")
    assert flowbed(*finding["fix"].split()[1:], "--index", "always").status == 0
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_large_collection_compares_numbers_of_rows_and_chunks(
    patient: Patient, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing every row would take too long."""
    monkeypatch.setattr(index, "COMPARED", 2)
    assert flowbed("doctor", "--json").json["findings"] == []
    lose_a_row(patient)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert finding["check"] == "counts"
    carry_out(finding["fix"], flowbed)
    assert flowbed("doctor", "--json").json["findings"] == []


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (double_a_row, "1 row with a duplicate id: notes#"),
        (add_a_row("who?"), "1 row with an invalid id: who?"),
    ],
)
def test_doctor_large_collection_finds_duplicate_and_invalid_ids(
    patient: Patient,
    flowbed: Call,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Patient], None],
    says: str,
) -> None:
    healthy = contents_of(patient.folder)
    monkeypatch.setattr(index, "COMPARED", 2)
    monkeypatch.setattr(repair, "PAGE", 2)
    harm(patient)
    findings = flowbed("doctor", "--json").json["findings"]
    (finding,) = [each for each in findings if each["check"] == "index"]
    assert finding["what"].startswith(says)
    carry_out(finding["fix"], flowbed)
    assert flowbed("doctor", "--json").json["findings"] == []
    assert_same(contents_of(patient.folder), healthy)


def test_doctor_source_whose_folder_is_missing_is_named_until_it_is_back(
    patient: Patient, flowbed: Call
) -> None:
    """Neither the plan nor the checklist calls the project well; another source goes on."""
    (patient.folder / "other.txt").write_text("Milk is in the fridge.\n")
    assert flowbed("add", "other", "files", "other.txt").status == 0
    assert flowbed("run").status == 0
    (patient.folder / "notes").rename(patient.folder / "away")
    called = flowbed("doctor", "--json")
    assert called.status == 1
    (finding,) = called.json["findings"]
    assert (finding["check"], finding["severity"], finding["subject"]) == ("sources", "error", "notes")
    assert "notes does not exist" in finding["what"]
    assert "flowbed add notes files LOCATION" in finding["what"]
    carry_out(finding["fix"], flowbed)
    assert flowbed("run").status == 1
    planned = flowbed("plan")
    assert (planned.status, "in step" in planned.out) == (1, False)
    failed = [
        each for each in flowbed("doctor", "--checklist", "--json").json["items"] if each["state"] == "failed"
    ]
    assert [(each["stage"], each["subject"]) for each in failed] == [("sources", "notes")]
    (patient.folder / "away").rename(patient.folder / "notes")
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_source_with_an_invalid_setting_is_named(patient: Patient, flowbed: Call) -> None:
    file = patient.folder / "flowbed.toml"
    file.write_text(file.read_text().replace('kind = "files"', 'kind = "folder"'))
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert (finding["check"], finding["severity"], finding["subject"]) == ("sources", "error", "notes")
    assert "unknown kind of source 'folder'" in finding["what"]
    assert "correct its settings in flowbed.toml" in finding["what"]


def test_doctor_model_of_another_space_is_named_with_the_collection(
    patient: Patient, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search names the model that fills the collections."""
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:16")
    called = flowbed("doctor", "--json")
    assert called.status == 1
    (finding,) = called.json["findings"]
    assert (finding["check"], finding["severity"], finding["subject"]) == ("model", "error", "notes")
    assert "seeded:32" in finding["what"]
    assert "set the model back" in finding["what"]
    searched = flowbed("search", "tea")
    assert searched.status == 2
    assert "they have vectors of seeded:32; set the model back" in searched.err
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:32")
    assert flowbed("doctor", "--json").json["findings"] == []


def test_doctor_local_model_that_is_not_installed_is_named_with_the_command(
    project: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(project / "nothing"))
    monkeypatch.setenv("FLOWBED_MODEL", "onnx:some-team/some-model")
    (project / "flowbed.toml").write_text("")
    called = flowbed("doctor", "--json")
    (finding,) = called.json["findings"]
    assert (called.status, finding["check"], finding["severity"]) == (1, "model", "error")
    assert finding["what"].startswith("model some-team/some-model was not found")
    assert finding["fix"].endswith("hf download some-team/some-model")
