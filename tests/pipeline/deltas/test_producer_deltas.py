"""Deltas that other producers wrote are checked and committed; a refused one is a dead letter."""

from __future__ import annotations

import asyncio
import errno
import json
import resource
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.preloaded import use_own
from tests.support.servers.chroma import archive, write_chroma
from tests.support.servers.s3 import variables

from flowbed.cli.app import run
from flowbed.errors import Misconfigured, OutOfSpace, Rejected, Transient
from flowbed.pipeline.delta_registry import registered
from flowbed.records.precomputed import PrecomputedRows
from flowbed.testing.embedder import seeded
from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.projects import Project
    from tests.support.servers.s3 import S3Server

LINES = tuple(f"IMAGE#i{number}#RECEIPT#00001#LINE#{number:05d}" for number in range(1, 6))


def put(project: Project, prefix: str, chroma: Path, *, loose: bool = False) -> None:
    """Put a Chroma directory under a prefix of the store, as an archive or as loose files."""
    (project.folder / ".flowbed").mkdir(mode=0o700, exist_ok=True)
    folder = project.folder / ".flowbed" / "store" / prefix
    folder.mkdir(parents=True)
    if not loose:
        (folder / "delta.tar.gz").write_bytes(archive(chroma))
        return
    for file in chroma.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(chroma)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Return a Chroma directory of lines."""
    return write_chroma(
        tmp_path / "lines", "lines", LINES, dimensions=32, metadata=[{"line": n} for n in range(5)]
    )


@pytest.mark.parametrize("loose", [False, True])
async def test_delta_added_is_committed_like_a_run_and_nothing_is_embedded(
    loose: bool,
    lines: Path,
    project: Project,
) -> None:
    put(project, "lines/delta/run-1", lines, loose=loose)
    async with await project.open() as bed:
        done = await bed.add_deltas("lines/delta/run-1")
        assert (done.committed, done.rows, done.refused) == (["lines/delta/run-1"], 5, [])
        (hit,) = await bed.search(list(map(float, seeded([f"text of {LINES[2]}"], 32)[0])), limit=1)
        assert (hit.id, hit.metadata) == (LINES[2], {"line": 2})
        assert (await bed.verify())["lines"].faults == ()
        assert (await bed.doctor()).findings == ()
        again = await bed.add_deltas("lines/delta/run-1/", "lines/delta/run-1/delta.tar.gz")
        assert (again.rows, again.unchanged, again.versions) == (0, 5, {})
    assert project.sent() == {}
    assert list((project.folder / ".flowbed" / "store" / "lines/delta/run-1").iterdir())


async def test_run_record_names_the_deltas_of_its_collections(
    lines: Path, tmp_path: Path, project: Project
) -> None:
    words = write_chroma(tmp_path / "words", "words", [f"{LINES[0]}#WORD#00001"], dimensions=32)
    put(project, "lines/delta/abc", lines)
    put(project, "words/delta/abc", words)
    record = {
        "run_id": "abc",
        "lines_delta_prefix": "lines/delta/abc/",
        "words_delta_prefix": "words/delta/abc",
    }
    async with await project.open() as bed:
        await bed.store.put("runs/abc.json", json.dumps(record).encode())
        done = await bed.add_deltas("runs/abc.json")
        assert sorted(done.versions) == ["lines", "words"]
        assert done.rows == 6


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lines", "is not the key of a delta"),
        ("../delta/x", "is not the key of a delta"),
        ("jobs/delta/x", "is not the key of a delta"),
        ("lines/delta/../x", "is not the key of a delta"),
        ("lines/delta/..", "is not the key of a delta"),
        ("lines/index/x", "is not the key of a delta"),
        ("missing.json", "is not in the store"),
        ("text.json", "is not JSON"),
        ("empty.json", "names no delta"),
        ("other.json", "which is of another collection"),
        ("number.json", "is not a text"),
    ],
)
async def test_key_that_names_no_delta_is_refused_and_nothing_is_registered(
    key: str, reason: str, project: Project
) -> None:
    async with await project.open() as bed:
        for name, body in {
            "text.json": b"{",
            "empty.json": b"{}",
            "other.json": b'{"lines_delta_prefix": "words/delta/x"}',
            "number.json": b'{"lines_delta_prefix": 7}',
        }.items():
            await bed.store.put(name, body)
        with pytest.raises(Rejected, match=reason):
            await bed.add_deltas("lines/delta/fine", key)
        assert (await bed.add_deltas()).refused == []


def test_deltas_add_of_a_mistyped_key_is_an_error_that_leaves_nothing(
    lines: Path, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, "lines/delta/one", lines)
    monkeypatch.chdir(project.folder)
    assert run(["deltas", "add", "lines/delta/one", "lines/delta/oen"]) == 2
    assert "there is neither lines/delta/oen/delta.tar.gz nor" in capsys.readouterr().err
    assert run(["dead-letters", "list"]) == 0
    assert capsys.readouterr().out == "no dead letters\n"
    assert run(["deltas", "add"]) == 0
    assert capsys.readouterr().out.startswith("0 deltas committed")
    assert run(["deltas", "add", "lines/delta/one/delta.tar.gz"]) == 0


async def test_refused_deltas_are_dead_letters_with_reasons_and_the_rest_commits(
    lines: Path, tmp_path: Path, project: Project
) -> None:
    """Space, vectors, metadata, ids, rows and files are checked; a delta is taken as a whole or not at all."""
    vectors = seeded(LINES, 32)
    vectors[3] = 0.0
    odd = {
        "narrow": write_chroma(tmp_path / "narrow", "lines", LINES, dimensions=8),
        "zeros": write_chroma(tmp_path / "zeros", "lines", LINES, vectors=vectors),
        "long": write_chroma(tmp_path / "long", "lines", ["x" * 1_025], dimensions=32),
        "lists": write_chroma(tmp_path / "lists", "lines", ["a"], dimensions=32, metadata=[{"a": [1, 2]}]),
        "nothing": write_chroma(tmp_path / "nothing", "lines", [], dimensions=32),
    }
    for name, folder in odd.items():
        put(project, f"lines/delta/{name}", folder)
    put(project, "lines/delta/good", lines)
    (none := project.folder / ".flowbed" / "store" / "lines/delta/none").mkdir()
    (none / "READ.ME").write_text("It follows.")
    names = [f"lines/delta/{name}" for name in (*odd, "none", "good")]
    async with await project.open() as bed:
        done = await bed.add_deltas(*names)
        assert done.committed == ["lines/delta/good"]
        letters = {each.subject: each.reason for each in await bed.dead_letters()}
        assert set(letters) == set(names) - {"lines/delta/good"}
        for name, reason in {
            "narrow": "8 dimensions, but space",
            "zeros": "has only zeros",
            "long": "longer than 1,024 bytes",
            "lists": "metadata 'a'",
            "nothing": "it has no rows",
            "none": "neither lines/delta/none/delta.tar.gz nor",
        }.items():
            assert reason in letters[f"lines/delta/{name}"], letters
        assert set(project.documents("lines")) == set(LINES)
        (finding,) = (await bed.doctor()).findings
        assert finding.check == "dead-letters"
        assert set(finding.fix.split()) == {"flowbed", "deltas", "add", *set(names) - {"lines/delta/good"}}
        # Written again by its producer, it is added again.
        target = project.folder / ".flowbed" / "store" / "lines/delta/narrow" / "delta.tar.gz"
        target.write_bytes(archive(lines))
        assert (await bed.add_deltas("lines/delta/narrow")).unchanged == 5
        assert "lines/delta/narrow" not in {each.subject for each in await bed.dead_letters()}


async def test_deltas_add_on_a_full_disk_refuses_nothing_and_is_continued(
    lines: Path, project: Project, tmp_path: Path
) -> None:
    """The archive does not fit into the scratch folder, as on a full disk: the delta may be good."""
    put(project, "lines/delta/run-1", lines)
    large = project.folder / ".flowbed/store/lines/delta/large"
    large.mkdir()
    (large / "delta.tar.gz").write_bytes(bytes(20 << 20))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with await project.open() as bed:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, before[1]))
        try:
            with pytest.raises(OutOfSpace, match=r"no space left in .*scratch.*: nothing is lost"):
                await bed.add_deltas("lines/delta/large", "lines/delta/run-1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert await bed.dead_letters() == []
        done = await bed.add_deltas()
        assert (done.committed, [each.subject for each in done.refused]) == (
            ["lines/delta/run-1"],
            ["lines/delta/large"],
        )


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, OutOfSpace), (errno.EROFS, Misconfigured)])
async def test_deltas_add_whose_child_cannot_write_refuses_nothing(
    number: int,
    error: type[Exception],
    lines: Path,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(project, "lines/delta/run-1", lines)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "opened = pathlib.Path.open\n"
        "def fails(self, mode='r', *more, **others):\n"
        "    if 'x' in mode:\n"
        f"        raise OSError({number}, 'no', str(self))\n"
        "    return opened(self, mode, *more, **others)\n"
        "pathlib.Path.open = fails\n"
    )
    async with await project.open() as bed:
        use_own(monkeypatch)
        monkeypatch.syspath_prepend(tmp_path)  # also of the child
        with pytest.raises(error, match="scratch"):
            await bed.add_deltas("lines/delta/run-1")
        assert await bed.dead_letters() == []
        assert await registered(bed._context()) == ["lines/delta/run-1"]


async def test_delta_with_a_row_of_a_source_is_refused_as_a_whole(notes: Project, tmp_path: Path) -> None:
    owned = write_chroma(tmp_path / "owned", "notes", ["mine", "notes#one.txt#00000"], dimensions=32)
    put(notes, "notes/delta/x", owned)
    async with await notes.open() as bed:
        (refused,) = (await bed.add_deltas("notes/delta/x")).refused
        assert "it belongs to source notes" in refused.reason
        assert "mine" not in notes.documents("notes")


def test_deltas_and_dead_letters_commands_name_what_was_refused(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    (none := project.folder / ".flowbed" / "store" / "lines/delta/none").mkdir(parents=True)
    (none / "READ.ME").write_text("It follows.")
    assert run(["deltas", "add", "lines/delta/none"]) == 1
    assert "0 deltas committed" in capsys.readouterr().out
    assert run(["dead-letters", "show", "lines/delta/none", "--json"]) == 0
    (letter,) = json.loads(capsys.readouterr().out)["dead_letters"]
    assert (letter["kind"], letter["owner"]) == ("delta", "lines")
    assert run(["dead-letters", "show", "unknown"]) == 2


async def test_two_calls_at_once_commit_every_row_once(lines: Path, project: Project) -> None:
    put(project, "lines/delta/one", lines)
    put(project, "lines/delta/two", lines)
    async with await project.open() as first, await project.open() as second:
        done = await asyncio.gather(
            first.add_deltas("lines/delta/one", "lines/delta/two"), second.add_deltas("lines/delta/two")
        )
        assert [each.refused for each in done] == [[], []]
        assert sum(each.rows for each in done) == 5
        assert (await first.verify())["lines"].faults == ()
    assert project.contents().doubled == ()


async def test_commit_takes_few_deltas_at_a_time_and_deletes_them_where_set(
    tmp_path: Path, project: Project
) -> None:
    """With two at a time, five runs are five deltas in three versions; each key is gone once it is committed."""
    with (project.folder / "flowbed.toml").open("a") as file:
        file.write("[commit]\ndeltas = 2\ndelete_processed = true\n")
    names = []
    for number in range(5):
        chroma = write_chroma(tmp_path / f"{number}", "lines", [LINES[number]], dimensions=32)
        put(project, f"lines/delta/run-{number}", chroma)
        names.append(f"lines/delta/run-{number}")
    async with await project.open() as bed:
        done = await bed.add_deltas(*names)
        assert (done.rows, done.refused) == (5, [])
        versions = [each.rows for each in await bed.versions("lines")]
        assert versions == [5, 4, 2, 0]
        assert [each.key async for each in bed.store.list("lines/delta/run-0")] == []
        with pytest.raises(Rejected, match=r"neither lines/delta/run-0/delta\.tar\.gz nor"):
            await bed.add_deltas("lines/delta/run-0")
        assert set(project.documents("lines")) == set(LINES)
        assert (await bed.verify())["lines"].faults == ()


async def test_deltas_add_stopped_while_it_deletes_is_ended_by_the_next_call(
    lines: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delta whose files are partly deleted was committed: it is neither read again nor refused."""
    with (project.folder / "flowbed.toml").open("a") as file:
        file.write("[commit]\ndelete_processed = true\n")
    put(project, "lines/delta/one", lines)
    async with await project.open() as bed:
        delete = bed.store.delete

        async def stopped(keys: Sequence[str]) -> None:
            await delete(keys)
            raise Transient("the network is gone")

        monkeypatch.setattr(bed.store, "delete", stopped)
        with pytest.raises(Transient, match="the network is gone"):
            await bed.add_deltas("lines/delta/one")
        monkeypatch.undo()
        done = await bed.add_deltas("lines/delta/one")
        assert (done.rows, done.refused) == (0, [])
        assert [each.key async for each in bed.store.list("lines/delta/one")] == []
        assert await bed.dead_letters() == []
        assert set(project.documents("lines")) == set(LINES)


async def test_delta_and_rows_in_s3_behind_a_faulty_proxy_are_committed_once(
    lines: Path, project: Project, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost answers and errors are tried again, and nothing is there twice."""
    with S3Proxy(s3_server.url) as proxy:
        for name, value in variables(proxy.url).items():
            monkeypatch.setenv(name, value)
        file = project.folder / "flowbed.toml"
        place = f"s3://bucket/{project.folder.parent.name}/store"
        file.write_text(f'store = "{place}"\n{file.read_text("utf-8")}', "utf-8")
        async with await project.open() as bed:
            await bed.store.put("lines/delta/run-1/delta.tar.gz", archive(lines))
            proxy.order(
                S3Fault(method="PUT", probability=0.1, after=INTERNAL_ERROR),
                S3Fault(method="PUT", probability=0.1, after=CUT),
                S3Fault(probability=0.05, before=SLOW_DOWN),
            )
            assert (await bed.add_deltas(f"{place}/lines/delta/run-1")).rows == 5
            rows = PrecomputedRows(ids=["mine"], vectors=seeded(["mine"], 32), texts=["mine"])
            assert (await bed.write_rows("lines", rows)).written == 1
            assert (await bed.write_rows("lines", rows)).unchanged == 1
            proxy.order()
            assert (await bed.verify())["lines"].faults == ()
            assert (await bed.status()).collections["lines"].rows == 6
