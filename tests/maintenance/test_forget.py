"""Forgetting rows: not a byte of them stays in the project, and nothing brings them back."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.processes.running import start
from tests.support.projects import Project
from tests.support.servers.s3 import REGION, variables

from flowbed import telemetry
from flowbed.errors import NotFound, Rejected
from flowbed.records.precomputed import PrecomputedRows
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.counting import CountingProcess
    from tests.support.processes.running import Ran
    from tests.support.servers.s3 import S3Server

    from flowbed.bed import Flowbed

# Texts that nothing compresses, in the document to forget; and its name, which is as personal.
SECRET = "qzx7Kp41vLm93TtRw0"  # noqa: S105 - a word of a text
NAME = "jane-zq81x"
KEPT = "ybw5Hn27cDs64PpGe8"


def holding(folder: Path, *needles: str) -> dict[str, list[str]]:
    """Return the files below a folder that contain one of the needles, in their bytes or their names."""
    found: dict[str, list[str]] = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        body = file.read_bytes() + str(file.relative_to(folder)).encode()
        held = [each for each in needles if each.encode() in body]
        if held:
            found[str(file.relative_to(folder))] = held
    return found


@pytest.fixture
def bed_of(tmp_path: Path, provider: CountingProcess) -> Project:
    """A project with two notes, one of which is to be forgotten."""
    project = Project(tmp_path / "project", provider)
    project.write(f"notes/{NAME}.md", f"# About\n\nThe word is {SECRET} here.\n")
    project.write("notes/other.md", f"# Other\n\nThe word is {KEPT} here.\n")
    return project


async def indexed(project: Project) -> None:
    """Index the notes, with an edit in between, so that there are older texts and versions."""
    async with await project.open() as bed:
        await bed.add("notes", kind="files", location="notes")
        await bed.run()
        await bed.tag("notes", (await bed.versions("notes"))[0].version, "first")
        project.write(f"notes/{NAME}.md", f"# About\n\nThe word is {SECRET} here, and edited.\n")
        await bed.run()
        project.write("notes/third.md", "# Third\n\nMore.\n")
        project.write(f"notes/{NAME}.md", f"# About\n\nThe word is {SECRET} here, and planned.\n")
        await bed.plan()


def assert_forgotten(project: Project) -> None:
    """Check that nothing of the document stands in the project's own folder, and that the rest does."""
    hidden = project.folder / ".flowbed"
    assert holding(hidden, SECRET, NAME) == {}
    assert holding(hidden, KEPT)
    assert f"# Other\n\nThe word is {KEPT} here." in project.documents("notes")["notes#other.md#00000"]


async def assert_consistent(bed: Flowbed) -> None:
    """Check that index, ledger and store agree."""
    found = await bed.verify()
    assert {name: each.faults for name, each in found.items() if each.faults} == {}


async def test_forget_document_leaves_no_byte_and_stays_forgotten(bed_of: Project) -> None:
    await indexed(bed_of)
    assert holding(bed_of.folder / ".flowbed", SECRET, NAME)
    async with await bed_of.open() as bed:
        receipt = await bed.forget(documents=[f"{NAME}.md"])
        assert (receipt.chunks, receipt.documents, receipt.complete) == (1, 1, True)
        assert {each.place for each in receipt.erased} >= {"ledger", "batch files", "deltas", "plans"}
        assert {each.place for each in receipt.not_reached} >= {"providers", "copies", "memory"}
        assert SECRET not in str(receipt)
        assert NAME not in str(receipt)
        await assert_consistent(bed)
    assert_forgotten(bed_of)
    bed_of.sent()
    async with await bed_of.open() as bed:
        bed_of.write(f"notes/{NAME}.md", f"# About\n\nThe word is {SECRET} again.\n")
        report = await bed.run()
        assert (report.failed, report.embedded) == (0, 1)  # the third note
        assert not any(SECRET in each for each in bed_of.sent())
        await bed.run()
        await bed.verify(repair=True)
        await assert_consistent(bed)
    assert_forgotten(bed_of)


async def test_why_says_when_a_row_was_forgotten_and_by_which_request(bed_of: Project) -> None:
    await indexed(bed_of)
    async with await bed_of.open() as bed:
        first = await bed.forget(documents=[f"{NAME}.md"])
        second = await bed.forget("notes#other.md#00000")
        for subject, receipt in (
            (f"{NAME}.md", first),
            (f"notes#{NAME}.md", first),
            (f"notes#{NAME}.md#00000", first),
            (f"notes#{NAME}.md#00007", first),
            ("notes#other.md#00000", second),
        ):
            with pytest.raises(
                NotFound, match=rf"was forgotten at 20[-\d]+ [:\d]+ UTC by request {receipt.id}"
            ):
                await bed.why(subject)
        with pytest.raises(
            NotFound, match=r"nothing is known of .*: source notes has no document 'fourth\.md' in notes"
        ):
            await bed.why("notes#fourth.md#00000")
        await bed.lift_forget(documents=[f"{NAME}.md"])
        with pytest.raises(NotFound, match="is not in the index yet: `flowbed run notes` fetches it"):
            await bed.why(f"{NAME}.md")
        with pytest.raises(NotFound, match=f"by request {second.id}"):
            await bed.why("notes#other.md#00000")
    assert SECRET not in (bed_of.folder / ".flowbed/store/forgotten/blocked.json").read_text("utf-8")


async def test_lift_lets_a_document_return(bed_of: Project) -> None:
    await indexed(bed_of)
    async with await bed_of.open() as bed:
        await bed.forget(documents=[f"notes#{NAME}.md"])
        await bed.run()
        assert f"notes#{NAME}.md#00000" not in bed_of.documents("notes")
        with pytest.raises(NotFound, match=r"no document 'other\.md' was forgotten"):
            await bed.lift_forget(documents=["other.md"])
        assert await bed.lift_forget(documents=[f"{NAME}.md"]) == 1
        await bed.run()
        assert SECRET in bed_of.documents("notes")[f"notes#{NAME}.md#00000"]
        await assert_consistent(bed)


async def test_forget_chunk_keeps_its_neighbours_and_lift_brings_it_back(bed_of: Project) -> None:
    long = " ".join(f"word{number}" for number in range(900))
    bed_of.write(
        "notes/long.md", f"# One\n\n{long}\n\n# Two\n\nIt is {SECRET}two.\n\n# Three\n\n{long[::-1]}\n"
    )
    await indexed(bed_of)
    rows = bed_of.documents("notes")
    ((chunk, _),) = [each for each in rows.items() if f"{SECRET}two" in each[1]]
    async with await bed_of.open() as bed:
        receipt = await bed.forget(chunk)
        assert (receipt.chunks, receipt.documents) == (1, 0)
        assert holding(bed_of.folder / ".flowbed", f"{SECRET}two") == {}
        # An edit in front of it moves its text to another id.
        bed_of.write(
            "notes/long.md", "# Zero\n\nNew.\n\n" + (bed_of.folder / "notes/long.md").read_text("utf-8")
        )
        await bed.run()
        assert holding(bed_of.folder / ".flowbed", f"{SECRET}two") == {}
        assert len(bed_of.documents("notes")) >= len(rows) - 1
        await assert_consistent(bed)
        assert await bed.lift_forget(chunk) == 1
        await bed.run()
        assert any(f"{SECRET}two" in each for each in bed_of.documents("notes").values())
        await assert_consistent(bed)


async def test_forget_where_keeps_a_text_that_another_row_has(bed_of: Project) -> None:
    records: list[dict[str, Any]] = [
        {"id": "one", "text": f"Shared {SECRET}", "author": "jane"},
        {"id": "two", "text": f"Shared {SECRET}", "author": "bob"},
        {"id": "three", "text": f"Only {SECRET}3", "author": "jane"},
    ]
    bed_of.write_lines("records.jsonl", records)
    async with await bed_of.open() as bed:
        await bed.add("records", kind="jsonl", location="records.jsonl", options={"metadata": ["author"]})
        await bed.run()
        found = await bed.find_to_forget(where={"author": "jane"})
        assert len(found.chunks) == 2
        assert [each for each in found.shared if "two" in each]
        with pytest.raises(Rejected, match="2 rows would be forgotten, more than 1"):
            await bed.forget(where={"author": "jane"}, most=1)
        receipt = await bed.forget(where={"author": "jane"})
        assert (receipt.chunks, receipt.kept) == (2, 1)
        assert [key for key in bed_of.documents("records") if "two" in key] == list(
            bed_of.documents("records")
        )
        assert holding(bed_of.folder / ".flowbed", f"{SECRET}3") == {}
        await bed.run()
        assert len(bed_of.documents("records")) == 1
        await assert_consistent(bed)


async def test_forget_precomputed_row_refuses_it_afterwards(bed_of: Project) -> None:
    texts = [f"Row {SECRET}", f"Row {KEPT}"]
    rows = PrecomputedRows(ids=[NAME, "other"], vectors=seeded(texts, 32), texts=texts, metadata=[None, None])
    async with await bed_of.open() as bed:
        await bed.write_rows("mine", rows, cache=True)
        receipt = await bed.forget(NAME, collection="mine")
        assert receipt.complete
        assert holding(bed_of.folder / ".flowbed", SECRET, NAME) == {}
        again = await bed.write_rows("mine", rows)
        assert [each.subject for each in again.refused] == [NAME]
        assert "forgotten" in again.refused[0].reason
        assert list(bed_of.documents("mine")) == ["other"]
        await assert_consistent(bed)
        assert await bed.lift_forget(NAME) == 1
        assert (await bed.write_rows("mine", rows)).written == 1


async def test_forget_leaves_no_vector_in_the_vector_index(bed_of: Project) -> None:
    """Text can be guessed from a vector, so the row's numbers are searched for in all bytes of the project."""
    texts = [f"Row {number}" for number in range(300)]
    vectors = seeded(texts, 32)
    rows = PrecomputedRows(ids=[f"r{number}" for number in range(300)], vectors=vectors, texts=texts)
    async with await bed_of.open() as bed:
        await bed.write_rows("mine", rows, cache=True)
        await bed.compact("mine", vector_index="always")
        hidden = bed_of.folder / ".flowbed"
        (one, other) = (np.asarray(vectors[place], np.float32).tobytes()[:32] for place in (7, 8))
        assert any(one in file.read_bytes() for file in hidden.rglob("*.lance") if file.is_file())
        await bed.forget("r7")
        await bed.search([float(each) for each in vectors[8]], collection="mine")
    files = {each: each.read_bytes() for each in hidden.rglob("*") if each.is_file()}
    assert [str(file) for file, body in files.items() if one in body] == []
    assert [file for file, body in files.items() if other in body]


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, 2), (b"y\n", 0, 1)])
async def test_forget_on_a_terminal_shows_what_it_found_and_asks(
    bed_of: Project, answer: bytes, status: int, left: int
) -> None:
    await indexed(bed_of)
    ours, its = pty.openpty()
    os.write(ours, answer)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flowbed", "forget", "--document", f"{NAME}.md"],
        cwd=bed_of.folder,
        stdin=its,
        stdout=subprocess.DEVNULL,
        stderr=its,
        timeout=120,
        check=False,
    )
    shown = os.read(ours, 65_536).decode()
    os.close(its)
    os.close(ours)
    assert done.returncode == status
    assert f"notes#{NAME}.md#00000" in shown
    assert "erase them for good?" in shown
    assert len(bed_of.documents("notes")) == left


async def test_forget_refuses_many_rows_without_yes(bed_of: Project) -> None:
    bed_of.write_lines("many.jsonl", [{"id": f"{number}", "text": f"Text {number}"} for number in range(101)])
    async with await bed_of.open() as bed:
        await bed.add("many", kind="jsonl", location="many.jsonl")
        await bed.run()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flowbed", "forget", "--where", "{}", "-c", "many"],
        cwd=bed_of.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "101 rows would be forgotten, more than 100" in done.stderr
    assert len(bed_of.documents("many")) == 101


async def test_forget_works_without_a_usable_model(bed_of: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    await indexed(bed_of)
    monkeypatch.setenv("FLOWBED_MODEL", "openai:text-embedding-3-small")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    toml = bed_of.folder / "flowbed.toml"
    _, mark, sources = toml.read_text("utf-8").partition("[sources.")
    toml.write_text(mark + sources, "utf-8")
    async with await bed_of.open() as bed:
        assert (await bed.forget(documents=[f"{NAME}.md"])).complete
    assert_forgotten(bed_of)


async def test_forget_names_what_is_unknown(bed_of: Project) -> None:
    await indexed(bed_of)
    async with await bed_of.open() as bed:
        with pytest.raises(NotFound, match="no chunk has the id 'nothing'"):
            await bed.forget("nothing")
        with pytest.raises(NotFound, match="no source has a document 'nothing'"):
            await bed.forget(documents=["nothing"])
        with pytest.raises(Rejected, match="name what to forget"):
            await bed.forget()
        assert await bed.resume_forget() == []


@pytest.fixture
def forgetting_during(bed_of: Project) -> Iterator[list[str]]:
    """Points at which the document is forgotten by another process, in the middle of a run of this one."""
    points: list[str] = []

    def listener(name: str, _: dict[str, Any]) -> None:
        if name in points:
            points.remove(name)
            done = forget_elsewhere(bed_of, "--document", f"notes#{NAME}.md")
            assert done.returncode == 0, done.stderr + done.stdout

    stop = telemetry.listen(listener)
    yield points
    stop()


def forget_elsewhere(project: Project, *arguments: str, at: str = "") -> Ran:
    """Forget in another process, which is killed at a point."""
    given = ("forget", *arguments, "--yes", "--json")
    return start(*given, folder=project.folder, variables=os.environ, point=at).wait()


# Of the points, these are the ones in the middle of a step.
SHORT = {telemetry.FORGET_BLOCKED, telemetry.FORGET_ROWS_REMOVED, telemetry.FORGET_FILE_REWRITTEN}
POINTS = [
    pytest.param(each, marks=[] if each in SHORT else [pytest.mark.long])
    for each in telemetry.FORGET_FAILPOINTS
    if each != telemetry.FORGET_PUBLISHED
]


@pytest.mark.parametrize("point", POINTS)
async def test_forget_killed_anywhere_is_resumed(bed_of: Project, point: str) -> None:
    await indexed(bed_of)
    killed = await asyncio.to_thread(forget_elsewhere, bed_of, "--document", f"{NAME}.md", at=point)
    assert killed.returncode == -9, killed.stderr
    unfinished = point != telemetry.FORGET_RECEIPT_WRITTEN  # that point is after the end
    async with await bed_of.open() as bed:
        found = [each.fix for each in (await bed.doctor()).findings if each.check == "forget"]
        assert found == ["flowbed forget --resume"] * unfinished
        if point != telemetry.FORGET_MARKED:  # from then on, no run brings the document back
            await bed.run()
        done = await bed.resume_forget()
        assert [each.complete for each in done] == [True] * unfinished
        await bed.run()
        assert await bed.resume_forget() == []
        await assert_consistent(bed)
    assert_forgotten(bed_of)


async def test_forget_replaces_published_snapshots(bed_of: Project, tmp_path: Path) -> None:
    toml = bed_of.folder / "flowbed.toml"
    toml.write_text(toml.read_text("utf-8") + '\n[publish.notes]\nkind = "chroma"\n', "utf-8")
    await indexed(bed_of)
    async with await bed_of.open() as bed:
        (before,) = await bed.publications()
        killed = await asyncio.to_thread(
            forget_elsewhere, bed_of, "--document", f"{NAME}.md", at=telemetry.FORGET_PUBLISHED
        )
        assert killed.returncode == -9, killed.stderr
        (receipt,) = await bed.resume_forget()
        assert receipt.complete
        pulled = await bed.pull("notes", tmp_path / "mine")
    assert pulled.version > before.place
    assert pulled.rows == 1
    assert_forgotten(bed_of)
    assert holding(tmp_path / "mine", SECRET, NAME) == {}
    assert holding(tmp_path / "mine", KEPT)


async def test_forget_replaces_published_parquet_files(bed_of: Project) -> None:
    """Their texts are compressed, so the files are read."""
    toml = bed_of.folder / "flowbed.toml"
    toml.write_text(toml.read_text("utf-8") + '\n[publish.notes]\nkind = "parquet"\n', "utf-8")
    await indexed(bed_of)
    folder = bed_of.folder / ".flowbed" / "store" / "notes" / "parquet"
    assert len(list(folder.glob("*.parquet"))) == 2
    async with await bed_of.open() as bed:
        assert (await bed.forget(documents=[f"{NAME}.md"])).complete
    (file,) = folder.glob("*.parquet")
    assert pq.read_table(file)["id"].to_pylist() == ["notes#other.md#00000"]
    assert_forgotten(bed_of)


async def test_forget_without_the_publication_that_made_a_snapshot_is_not_complete(bed_of: Project) -> None:
    toml = bed_of.folder / "flowbed.toml"
    plain = toml.read_text("utf-8")
    toml.write_text(plain + '\n[publish.notes]\nkind = "chroma"\n', "utf-8")
    await indexed(bed_of)
    toml.write_text(toml.read_text("utf-8").replace('[publish.notes]\nkind = "chroma"\n', ""), "utf-8")
    async with await bed_of.open() as bed:
        receipt = await bed.forget(documents=[f"{NAME}.md"])
        assert not receipt.complete
        (why,) = [each.why for each in receipt.not_reached if each.place == "notes/snapshot"]
        assert "publish the collection, or delete the folder" in why


async def test_forget_command_asks_writes_a_receipt_and_exits_1_if_something_is_left(
    bed_of: Project,
) -> None:
    await indexed(bed_of)
    receipt = bed_of.folder / "receipt.json"
    done = await asyncio.to_thread(
        forget_elsewhere, bed_of, "--document", f"{NAME}.md", "--receipt", str(receipt)
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["chunks"], said["complete"]) == (1, True)
    assert json.loads(receipt.read_text("utf-8")) == [said]
    kept = bed_of.folder / ".flowbed" / "store" / "forgotten" / "receipts" / f"{said['id']}.json"
    assert json.loads(kept.read_text("utf-8")) == said
    assert (await asyncio.to_thread(forget_elsewhere, bed_of, "nothing")).returncode == 2
    assert (await asyncio.to_thread(forget_elsewhere, bed_of, "--resume", "nothing")).returncode == 2


@pytest.mark.parametrize(
    "point",
    [telemetry.FETCH_SWAPPED, telemetry.CHUNKS_CLAIMED, telemetry.DELTA_WRITTEN, telemetry.RUN_RECORDED],
)
async def test_run_that_is_overtaken_does_not_bring_the_row_back(
    bed_of: Project, forgetting_during: list[str], point: str
) -> None:
    """The worker holds the text in memory while it is forgotten: its commit leaves the row out."""
    await indexed(bed_of)
    bed_of.write(f"notes/{NAME}.md", f"# About\n\nThe word is {SECRET} once more.\n")
    async with await bed_of.open() as bed:
        forgetting_during.append(point)
        await bed.run()
        assert forgetting_during == []
        await bed.run()
        assert f"notes#{NAME}.md#00000" not in bed_of.documents("notes")
        await assert_consistent(bed)
    assert holding(bed_of.folder / ".flowbed" / "store", SECRET) == {}


def test_forget_on_s3_leaves_no_object_with_the_text(
    bed_of: Project, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables(s3_server.url).items():
        monkeypatch.setenv(name, value)
    toml = bed_of.folder / "flowbed.toml"
    prefix = f"{bed_of.folder.parent.name}/store"
    toml.write_text(f'store = "s3://bucket/{prefix}"\n' + toml.read_text("utf-8"), "utf-8")
    client = boto3.client("s3", endpoint_url=s3_server.url, region_name=REGION)

    def held(needle: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        bodies = {key: client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}
        return [key for key, body in bodies.items() if needle.encode() in body + key.encode()]

    async def work() -> None:
        await indexed(bed_of)
        assert held(SECRET)
        async with await bed_of.open() as bed:
            receipt = await bed.forget(documents=[f"{NAME}.md"])
            assert receipt.complete
            assert any("older versions of its objects" in each.why for each in receipt.not_reached)
            await bed.run()
            await assert_consistent(bed)

    asyncio.run(work())
    assert held(SECRET) == held(NAME) == []
    assert held(KEPT)
    assert holding(bed_of.folder / ".flowbed", SECRET, NAME) == {}


@pytest.mark.parametrize("form", ["object", "list"])
async def test_forget_chunk_of_another_program_keeps_its_neighbours(project: Project, form: str) -> None:
    """Chunks of such a file are known by their places, which must not move up."""
    chunks = [{"text": f"The word is {SECRET} here."}, {"text": f"The word is {KEPT} here."}]
    file = project.folder / ".flowbed/store/partner/chunked/one.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"chunks": chunks} if form == "object" else chunks))
    async with await project.open() as bed:
        await bed.embed_waiting()
        await bed.embed()
        receipt = await bed.forget("partner#one#00000")
        assert not [each for each in receipt.not_reached if "one.json" in each.place]
        # Also when the file is read again.
        await bed.embed_waiting()
        await bed.embed()
    assert project.documents("partner") == {"partner#one#00001": f"The word is {KEPT} here."}
    assert holding(project.folder / ".flowbed", SECRET) == {}
