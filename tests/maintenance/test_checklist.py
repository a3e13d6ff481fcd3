"""The operator's checklist: a project is damaged, the item of that stage names it, and its command fixes it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pytest
from tests.support.processes.running import start
from tests.support.publishing import COLLECTION, PublishedProject
from tests.support.servers.chroma import archive, write_chroma
from tests.support.servers.s3 import variables

import flowbed
from flowbed.bed import aopen, look_through
from flowbed.cli.app import run
from flowbed.index.deltas import Upsert, table, write_delta
from flowbed.ledger import RunRow
from flowbed.maintenance.checklist import items
from flowbed.publish.chroma import (
    LIST,
    Snapshot,
    SnapshotFile,
    current_snapshot,
    pointer_key,
    snapshot_key,
)
from flowbed.records import Space, canonical
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.support.servers.s3 import S3Server

    from flowbed.bed import Flowbed
    from flowbed.maintenance.checklist import Checklist, Item

SPACE = Space(model="seeded:16", dimensions=16)
MINUTE = 60_000_000  # µs
# Chroma itself makes an empty collection.
EMPTY = """
import sys, chromadb
client = chromadb.PersistentClient(sys.argv[1])
client.create_collection(sys.argv[2], embedding_function=None)
client.close()
"""


@dataclass
class Bench:
    """A published project, and its store without faults."""

    project: PublishedProject
    scratch: Path
    patch: pytest.MonkeyPatch

    def killed(self, *arguments: str, at: str) -> None:
        """Run a command in a process that is killed at a point."""
        place = self.project
        ran = start(*arguments, folder=place.folder, variables=place.variables, point=at).wait()
        assert ran.returncode < 0

    def flowbed(self, *arguments: str) -> int:
        """Run a command; return its exit status."""
        return run([*arguments, "--config", str(self.project.folder)])

    def items(self) -> list[Item]:
        """Walk through the checklist."""
        return list(walk(self.project.folder).items)

    def item(self, stage: str) -> Item:
        """Return the only item of a stage."""
        (found,) = [each for each in self.items() if each.stage == stage]
        return found

    def failed(self) -> list[Item]:
        """Return the failed items."""
        return list(walk(self.project.folder).failed)

    def carry_out(self, command: str) -> None:
        """Run a command as a shell would, but Flowbed's own in this process."""
        for step in command.split(";"):
            name, _, rest = step.strip().partition(" ")
            if name == "flowbed":
                self.flowbed(*rest.split())
            else:
                subprocess.run(["/bin/sh", "-c", step], check=True)

    def later(self, microseconds: int) -> None:
        """Advance the clock."""
        now = process.now
        self.patch.setattr(process, "now", lambda: now() + microseconds)

    def put(self, key: str, body: bytes) -> None:
        """Overwrite an object of the store."""
        asyncio.run(self.project.store.put(key, body))

    def get(self, key: str) -> bytes:
        """Read an object of the store."""
        return asyncio.run(self.project.store.get(key)).body

    def keys(self, prefix: str) -> list[str]:
        """List the objects below a prefix."""

        async def listed() -> list[str]:
            return sorted([each.key async for each in self.project.store.list(prefix)])

        return asyncio.run(listed())

    def delete(self, *keys: str) -> None:
        """Delete objects of the store."""
        asyncio.run(self.project.store.delete(keys))

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot."""
        return asyncio.run(current_snapshot(self.project.store, COLLECTION))

    def rewrite_list(self, snapshot: Snapshot) -> None:
        """Overwrite the file list of a snapshot."""
        self.put(f"{snapshot_key(COLLECTION, snapshot.version)}/{LIST}", snapshot.to_json())

    def act(self, work: Callable[[Flowbed], Coroutine[Any, Any, None]]) -> None:
        """Run `work` on the opened project, in this process."""

        async def opened() -> None:
            async with aopen(self.project.folder) as bed:
                await work(bed)

        asyncio.run(opened())


def published_project(folder: Path, **store: Any) -> PublishedProject:
    """Run and publish a project of 60 notes, which is published by command."""
    project = PublishedProject(folder, **store)
    for command in ("run", "publish"):
        assert run([command, "--config", str(folder)]) == 0
    return project


@pytest.fixture(scope="module")
def published_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that was run and published; to be copied, not changed."""
    return published_project(tmp_path_factory.mktemp("notes") / "project", variables={}).folder


@pytest.fixture
def bench(published_notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    project = PublishedProject(tmp_path / "project", {})
    shutil.rmtree(project.folder)
    shutil.copytree(published_notes, project.folder)
    return Bench(project, tmp_path / "scratch", monkeypatch)


@pytest.fixture
def bench_on_s3(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bench:
    named = variables(s3_server.url)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    project = published_project(
        tmp_path / "project",
        variables=named,
        store_url=f"s3://bucket/{tmp_path.name}/store",
        s3=s3_server.url,
    )
    return Bench(project, tmp_path / "scratch", monkeypatch)


# The faults. Each does something to a project that is well.


def empty_the_list(bench: Bench) -> None:
    """Leave a snapshot whose list has no files and no rows."""
    bench.rewrite_list(replace(bench.snapshot, files={}, rows=0))


def empty_the_snapshot(bench: Bench) -> None:
    """Replace a snapshot by one of Chroma's that is whole, and has no rows."""
    held = bench.snapshot
    prefix = snapshot_key(COLLECTION, held.version)
    directory = bench.scratch / "empty"
    subprocess.run([sys.executable, "-c", EMPTY, str(directory), held.name], check=True, timeout=60)
    bench.delete(*bench.keys(prefix))
    files = {}
    for path in (each for each in sorted(directory.rglob("*")) if each.is_file()):
        name, body = path.relative_to(directory).as_posix(), path.read_bytes()
        bench.put(f"{prefix}/{name}", body)
        files[name] = SnapshotFile(size=len(body), sha256=hashlib.sha256(body).hexdigest())
    bench.rewrite_list(replace(held, files=files))


def kill_before_the_delta(bench: Bench) -> None:
    """Kill a run when its vectors are there and its delta is not."""
    bench.project.edit()
    bench.killed("run", at="vectors.kept")


def lose_a_delta(bench: Bench) -> None:
    """Delete the delta of a run that was recorded."""
    before = bench.keys(f"{COLLECTION}/delta")
    kill_before_the_commit(bench)
    bench.delete(*set(bench.keys(f"{COLLECTION}/delta")).difference(before))


def kill_before_the_commit(bench: Bench) -> None:
    """Kill a run that has recorded its delta."""
    bench.project.edit()
    bench.killed("run", at="run.recorded")


def point_to_nothing(bench: Bench) -> None:
    """Let the pointer name a snapshot that does not exist."""
    bench.put(pointer_key(COLLECTION), b"20200101_000000_000000")


def damage_the_pointer(bench: Bench) -> None:
    """Write something else into the pointer."""
    bench.put(pointer_key(COLLECTION), b"latest")


def lose_the_pointer(bench: Bench) -> None:
    """Delete the pointer, not the snapshot."""
    bench.delete(pointer_key(COLLECTION))


def tear_a_file(bench: Bench) -> None:
    """Cut a file of the current snapshot short."""
    key = f"{snapshot_key(COLLECTION, bench.snapshot.version)}/chroma.sqlite3"
    bench.put(key, bench.get(key)[:1_000])


def flip_a_byte(bench: Bench) -> None:
    """Change a byte of a vector of the current snapshot."""
    held = bench.snapshot
    name = next(each for each in held.files if each.endswith("data_level0.bin"))
    key = f"{snapshot_key(COLLECTION, held.version)}/{name}"
    body = bytearray(bench.get(key))
    body[100] ^= 1
    bench.put(key, bytes(body))


def lose_a_file(bench: Bench) -> None:
    """Delete a file of the current snapshot."""
    held = bench.snapshot
    bench.delete(f"{snapshot_key(COLLECTION, held.version)}/{min(held.files)}")


def die_with_the_lease(bench: Bench) -> None:
    """Leave a lease whose holder has ended."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    owner = f"{process.worker().split('/')[0]}/{ended.pid}/1.00/0000"
    body = canonical({"owner": owner, "epoch": 3, "seq": 1, "ttl_s": 60, "released": False})
    bench.put(f"{COLLECTION}/lease.json", body)


def lose_a_batch_file(bench: Bench) -> None:
    """Kill a run after its fetch, and delete the batch file of its chunks."""
    before = bench.keys(f"{COLLECTION}/chunked")
    bench.project.edit()
    bench.killed("run", at="fetch.swapped")
    bench.delete(*set(bench.keys(f"{COLLECTION}/chunked")).difference(before))


def write_an_odd_id(bench: Bench) -> None:
    """Write a row of another program into the index."""
    vector = np.zeros(16, np.float32)
    vector[0] = 1
    row = Upsert(id="who?", version=1, document="x", metadata={}, text_hash="0", vector=vector)
    uri = bench.project.folder / f".flowbed/store/{COLLECTION}/index/{SPACE.space8}.lance"
    lance.write_dataset(table("r", SPACE, [row], []), str(uri), mode="append")


def kill_before_the_publication(bench: Bench) -> None:
    """Kill a run when it has committed, and has not published, 20 minutes ago."""
    file = bench.project.folder / "flowbed.toml"
    file.write_text(file.read_text("utf-8").replace('every = "manual"', 'every = "commit"'), "utf-8")
    bench.project.edit()
    bench.killed("run", at="run.committed")
    bench.later(20 * MINUTE)


def record_another_space(bench: Bench) -> None:
    """Record a run with vectors of another model."""
    other = Space(model="other", dimensions=16)

    async def record(bed: Flowbed) -> None:
        vector = np.zeros(16, np.float32)
        vector[0] = 1
        row = Upsert(id="n#x#00000", version=1, document="x", metadata={}, text_hash="0", vector=vector)
        delta = await write_delta(bed.store, COLLECTION, other, [row], [], now=process.now())
        await bed.ledger.runs.record(
            RunRow(
                id=delta.run, collection=COLLECTION, space=other.to_json(), key=delta.key, sha256=delta.sha256,
                rows=1, lane="realtime", worker=process.worker(), created=process.now(),
            ),
            [],
            worker="w",
        )  # fmt: skip

    bench.act(record)


@dataclass(frozen=True)
class Case:
    """A fault, the stage that names it, and what that says."""

    fault: Callable[[Bench], None]
    stage: str
    says: str


CASES = {
    "snapshot without files": Case(empty_the_list, "snapshot files", "has no files"),
    "snapshot empty": Case(empty_the_snapshot, "snapshot rows", "is empty; its list says 60"),
    "delta not made": Case(
        kill_before_the_delta, "deltas", "which has ended, and no delta has their vectors"
    ),
    "delta lost": Case(lose_a_delta, "deltas", "lacks 1 delta of 1 run to be committed"),
    "commit not made": Case(kill_before_the_commit, "commit", "1 run with"),
    "pointer to nothing": Case(point_to_nothing, "pointer", "20200101_000000_000000, which does not exist"),
    "pointer damaged": Case(damage_the_pointer, "pointer", "names no snapshot ('latest')"),
    "pointer lost": Case(lose_the_pointer, "pointer", "although 1 snapshot"),
    "snapshot torn": Case(tear_a_file, "snapshot files", "has 1,000 bytes instead of"),
    "snapshot altered": Case(flip_a_byte, "snapshot files", "is damaged in the store"),
    "snapshot incomplete": Case(lose_a_file, "snapshot files", "is missing"),
    "lease of the dead": Case(die_with_the_lease, "lease", "has ended"),
    "batch file lost": Case(lose_a_batch_file, "batch files", "are lost with their batch file"),
    "id malformed": Case(write_an_odd_id, "ids", "1 row with an invalid id: who?"),
    "publication not made": Case(kill_before_the_publication, "published", "although it was due"),
    "spaces mixed": Case(
        record_another_space, "space", "vectors of other, and the collection is of seeded:16"
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_checklist_names_each_fault_at_its_stage_and_its_command_fixes_it(case: Case, bench: Bench) -> None:
    case.fault(bench)
    require_found_and_fixed(case, bench)


def test_checklist_on_s3_names_faults_and_their_commands_fix_them(bench_on_s3: Bench) -> None:
    assert bench_on_s3.failed() == []
    for name in (
        "delta not made",
        "commit not made",
        "pointer to nothing",
        "lease of the dead",
    ):
        CASES[name].fault(bench_on_s3)
        require_found_and_fixed(CASES[name], bench_on_s3)


def require_found_and_fixed(case: Case, bench: Bench) -> None:
    (item,) = [each for each in bench.failed() if each.stage == case.stage and case.says in each.found]
    bench.carry_out(item.fix)
    found = bench.items()
    assert [each for each in found if each.state == "failed"] == []
    (rows,) = [each for each in found if each.stage == "snapshot rows"]
    assert rows.state == "ok"


def test_checklist_publication_just_due_is_waiting(bench: Bench) -> None:
    """The next run makes it; a manual one waits for its command however long that takes."""
    bench.project.edit()
    assert bench.flowbed("run") == 0
    file = bench.project.folder / "flowbed.toml"
    manual = file.read_text("utf-8")
    for every, says in (("commit", "the next run publishes it"), ("1h", "it is not due yet")):
        file.write_text(manual.replace("manual", every), "utf-8")
        item = bench.item("published")
        assert (item.state, item.fix) == ("waiting", "flowbed publish notes")
        assert says in item.found
    file.write_text(manual, "utf-8")
    bench.later(600 * MINUTE)
    item = bench.item("published")
    assert item.state == "waiting"
    assert "by command only" in item.found


def test_checklist_delta_with_a_malformed_id_is_named_until_it_is_added_again(bench: Bench) -> None:
    key = f"{COLLECTION}/delta/theirs"
    for turn, odd in enumerate(("a\0b", "well#formed#00001")):
        made = write_chroma(bench.scratch / str(turn), COLLECTION, ["theirs#good#00000", odd])
        bench.put(f"{key}/delta.tar.gz", archive(made))
        if not turn:
            assert bench.flowbed("deltas", "add", key) == 1
            (item,) = bench.failed()
            assert item.stage == "deltas of others"
            assert "holds a NUL or half of a character" in item.found
            assert item.fix == f"flowbed deltas add {key}"
    bench.carry_out(item.fix)
    assert bench.failed() == []
    item = bench.item("deltas of others")
    assert (item.state, item.figures) == ("ok", {"converted": 1})


def test_checklist_of_a_new_project_waits_for_a_run(tmp_path: Path) -> None:
    found = walk(PublishedProject(tmp_path / "project", {}).folder)
    assert found.failed == ()
    states = {each.stage: each.state for each in found.items}
    assert states["sources"] == "waiting"
    assert states["index"] == states["pointer"] == states["lease"] == "not used"
    assert set(states) == set(items.STAGES)


def test_checklist_of_a_sound_project_changes_nothing(bench: Bench) -> None:
    before = contents(bench)
    found = bench.items()
    assert contents(bench) == before
    assert {each.state for each in found} == {"ok", "not used"}
    figures = {each.stage: each.figures for each in found}
    assert figures["sources"]["documents"] == 60
    assert figures["embedded"] == {"success": 60}
    assert figures["index"]["rows"] == figures["ids"]["rows"] == figures["snapshot rows"]["rows"] == 60


def contents(bench: Bench) -> tuple[dict[str, bytes], list[str]]:
    """Return every object of the store, and the ledger as SQL."""
    store = bench.project.folder / ".flowbed" / "store"
    files = {str(path): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    ledger = sqlite3.connect(bench.project.folder / ".flowbed" / "ledger.db")
    try:
        return files, list(ledger.iterdump())
    finally:
        ledger.close()


def test_checklist_shared_file_system_shows_what_readers_find_there(bench: Bench) -> None:
    """A snapshot that is not there yet is waited for, and a torn one is fetched again."""
    mount = bench.scratch / "mount"
    mount.mkdir(parents=True)
    bench.patch.setenv("CHROMA_ROOT", str(mount))
    item = bench.item("downloads")
    assert item.state == "waiting"
    bench.carry_out(item.fix)
    assert bench.item("downloads").state == "ok"
    (held,) = mount.glob("snapshots/notes/2*/chroma.sqlite3")
    os.truncate(held, 10)
    item = bench.item("downloads")
    assert "chroma.sqlite3 of snapshot" in item.found
    assert item.state == "failed"
    bench.carry_out(item.fix)
    assert bench.item("downloads").state == "ok"


def test_checklist_with_a_damaged_ledger_still_looks_at_snapshots(bench: Bench) -> None:
    for each in (bench.project.folder / ".flowbed").glob("ledger.db*"):
        each.unlink()
    (bench.project.folder / ".flowbed" / "ledger.db").write_text("no database at all, and long enough " * 9)
    found = {each.stage: each for each in bench.items()}
    assert found["ledger"].fix == "flowbed verify --repair; flowbed run"
    assert found["ledger"].state == found["sources"].state == "failed"
    assert found["pointer"].state == found["snapshot rows"].state == "ok"
    bench.carry_out(found["ledger"].fix)
    assert bench.failed() == []


def test_checklist_of_an_unreadable_store_fails_items_and_goes_on(bench: Bench) -> None:
    """Each stage that needs it says so; what the ledger alone knows is shown."""

    async def look(bed: Flowbed) -> None:
        bed._store = FaultyStore(bed._store, [Fault(before=unavailable)])
        found = {each.stage: each for each in (await bed.checklist()).items}
        assert found["store"].state == found["pointer"].state == found["snapshot rows"].state == "failed"
        assert "did not answer" in found["store"].found
        assert found["embedded"].state == "ok"

    bench.act(look)


def test_checklist_store_that_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of a stage, and of all stages."""
    monkeypatch.setattr(items, "STAGE_SECONDS", 0.3)
    monkeypatch.setattr(items, "ALL_SECONDS", 1.0)

    async def look(bed: Flowbed) -> None:
        bed._store = FaultyStore(
            bed._store, [Fault(delay=3_600, key="notes*"), Fault(delay=3_600, operation="folders")]
        )
        found = (await asyncio.wait_for(bed.checklist(), 30)).items
        slow = [each for each in found if "no answer in time" in each.found]
        assert {"store", "pointer", "snapshot files"} <= {each.stage for each in slow}
        assert len(found) >= len(items.STAGES)

    bench.act(look)


def test_checklist_of_swapped_projects_names_both_ledgers_and_repairs_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repair would take the other project's store."""
    other = bench.project.folder.parent / "other"
    shutil.copytree(bench.project.folder, other)
    for each in (other / ".flowbed").glob("ledger.db*"):
        each.unlink()
    shutil.rmtree(other / ".flowbed" / "store")
    assert run(["run", "--config", str(other)]) == 0
    for each in (bench.project.folder, other):
        (each / ".flowbed" / "store").rename(each / "swapped")
    (bench.project.folder / "swapped").rename(other / ".flowbed" / "store")
    (other / "swapped").rename(bench.project.folder / ".flowbed" / "store")
    ids = [ledger_id(each)[:8] for each in (bench.project.folder, other)]
    for command in (("doctor",), ("doctor", "--checklist"), ("run",)):
        capsys.readouterr()
        assert bench.flowbed(*command) == (1 if command[0] == "doctor" else 2)
        said = "".join(capsys.readouterr())
        assert all(each in said for each in ids)
        assert "--repair" not in said
    found = {each.stage: each.state for each in bench.items()}
    assert found["ledger"] == found["index"] == "failed"
    assert (found["store"], found["pointer"]) == ("ok", "waiting")


def ledger_id(folder: Path) -> str:
    with sqlite3.connect(folder / ".flowbed" / "ledger.db") as ledger:
        (found,) = ledger.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
    return str(found)


def test_checklist_of_the_synchronous_project_is_the_same(bench: Bench) -> None:
    with flowbed.open(bench.project.folder) as bed:
        found = bed.checklist()
    assert found.failed == ()
    assert [stages(each) for each in found.items] == [
        stages(each) for each in walk(bench.project.folder).items
    ]


def stages(item: Item) -> tuple[str, str, str]:
    return item.stage, item.subject, item.state


def walk(folder: Path) -> Checklist:
    return asyncio.run(look_through(folder))


def test_checklist_command_prints_items_and_ends_as_doctor_does(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.flowbed("doctor", "--checklist", "--json") == 0
    found = json.loads(capsys.readouterr().out)["items"]
    assert {frozenset(each) for each in found} == {
        frozenset({"stage", "subject", "state", "found", "figures", "how", "fix"})
    }
    assert list(dict.fromkeys(each["stage"] for each in found)) == list(items.STAGES)
    point_to_nothing(bench)
    capsys.readouterr()
    assert bench.flowbed("doctor", "--checklist") == 1
    shown = capsys.readouterr().out
    assert "pointer  (latest-pointer.txt is read" in shown
    assert "  failed    notes: it names 20200101_000000_000000, which does not exist" in shown
    assert "            flowbed publish notes --reconcile\n" in shown


EXAMPLE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
# What differs from run to run: versions, times, paths, sizes.
VARYING = re.compile(r"\d{8}_\d{6}_\d{6}|/\S+(?=/\.flowbed)|[\d.]+ MB|\b[0-9a-f]{8}\b")


def test_checklist_example_in_the_docs_is_what_is_printed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The project of the example: 60 notes, whose pointer names a snapshot that is gone."""
    (block,) = re.findall(
        r"^```console\n\$ flowbed doctor --checklist\n(.*?)^```", EXAMPLE, re.MULTILINE | re.DOTALL
    )
    point_to_nothing(bench)
    capsys.readouterr()
    assert bench.flowbed("doctor", "--checklist") == 1
    assert VARYING.sub("_", block) == VARYING.sub("_", capsys.readouterr().out)
