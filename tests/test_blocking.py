"""The synchronous API does what the async one does, with the same signatures."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.counting import CountingProcess

import flowbed
from flowbed import telemetry
from flowbed.blocking import Blocking
from flowbed.wiring.models import Embedders

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a model that needs no weights."""
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:16")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of two texts."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("We rotate the keys each month.\n")
    (tmp_path / "docs" / "b.txt").write_text("Tea is served at four.\n")
    return tmp_path / "docs"


def test_open_add_run_and_search_work_without_async(docs: Path, tmp_path: Path) -> None:
    """A project is opened, filled, searched, inspected and closed from synchronous code."""
    with flowbed.open(tmp_path / "project") as bed:
        bed.add("handbook", kind="files", location=docs)
        assert bed.plan().new == 2
        report = bed.run()
        assert (report.fetched, report.embedded) == (2, 2)
        (hit,) = bed.search("Tea is served at four.", limit=1)
        assert hit.id == "handbook#b.txt#00000"
        assert hit.score == pytest.approx(1.0, abs=1e-6)
        assert bed.find("x").versions == report.versions
        assert bed.status().collections["handbook"].rows == 2
        assert bed.why("b.txt")[0].chunk.status == "SUCCESS"
        assert bed.versions("handbook")[0].version == report.versions["handbook"]
        assert set(bed.compact()) == {"handbook"}
        assert bed.dead_letters() == []
        assert bed.retry_dead_letters() == 0
    bed.close()


def test_close_failing_model_leaves_no_ledger_and_no_thread_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is raised, and everything else is closed."""
    ended: list[str] = []

    async def failing(_: Embedders) -> None:
        raise OSError("the model cannot be closed")

    bed = flowbed.open(tmp_path / "project")
    ledger = type(bed._bed.ledger)
    close = ledger.close

    async def noted(each: Any) -> None:
        await close(each)
        ended.append("ledger")

    monkeypatch.setattr(ledger, "close", noted)
    monkeypatch.setattr(Embedders, "close", failing)
    with pytest.raises(OSError, match="cannot be closed"):
        bed.close()
    assert ended == ["ledger"]
    assert bed._loop.is_closed()
    assert not bed._thread.is_alive()
    bed.close()


async def test_aopen_concurrent_searches_return_the_same_hit(docs: Path, tmp_path: Path) -> None:
    """Searches of the async object may run at once."""
    async with await flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        await bed.run()
        answers = await asyncio.gather(*(bed.search("Tea is served at four.", limit=1) for _ in range(20)))
        assert {hits[0].id for hits in answers} == {"handbook#b.txt#00000"}


async def test_search_query_vector_must_have_the_models_dimensions(docs: Path, tmp_path: Path) -> None:
    async with await flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        await bed.run()
        from flowbed.testing.embedder import seeded as vectors

        (hit,) = await bed.search(list(vectors(["Tea is served at four."], 16)[0]), limit=1)
        assert hit.id == "handbook#b.txt#00000"
        for wrong in ([0.0] * 15, [float("nan")] * 16, [[0.0] * 16]):
            with pytest.raises(flowbed.errors.Rejected, match="must have 16"):
                await bed.search(wrong)  # type: ignore[arg-type]


def test_blocking_calls_raise_the_errors_of_the_async_ones(tmp_path: Path) -> None:
    """The project can still be used after an error."""
    with flowbed.open(tmp_path) as bed:
        with pytest.raises(flowbed.errors.Misconfigured, match="flowbed add"):
            bed.run()
        with pytest.raises(flowbed.errors.NotFound, match="flowbed run"):
            bed.search("x")
        assert bed.status().collections == {}


# Calls of the command line that synchronous code has no need of.
SERVING = {"price"}


def calls(face: type) -> set[str]:
    """Return the calls of a face, which is made of a class a subject; what it has from elsewhere is for services."""
    own = [
        vars(part)
        for part in face.__mro__
        if part.__module__.startswith(("flowbed.bed.", "flowbed.blocking."))
    ]
    return {
        name for part in own for name, value in part.items() if not name.startswith("_") and callable(value)
    }


def coroutines(face: type) -> set[str]:
    return {name for name in calls(face) if inspect.iscoroutinefunction(getattr(face, name))}


@pytest.mark.parametrize("name", sorted(calls(Blocking)))
def test_blocking_call_has_the_signature_and_docstring_of_the_async_one(name: str) -> None:
    """`flowbed.blocking` repeats them so that editors show them: change both together."""
    blocking, coroutine = getattr(Blocking, name), getattr(flowbed.Flowbed, name)
    assert inspect.signature(blocking) == inspect.signature(coroutine)
    if name != "close":
        assert inspect.getdoc(blocking) == inspect.getdoc(coroutine)


def test_blocking_has_every_call_of_the_async_api() -> None:
    assert coroutines(flowbed.Flowbed) - calls(Blocking) <= SERVING


def test_open_folder_that_cannot_be_created_raises_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(flowbed.errors.Misconfigured, match="cannot be used"):
        flowbed.open(tmp_path / "file" / "project")


INTERRUPTED = """
import os, signal, sys
import flowbed
from flowbed import telemetry

def interrupt(point, facts):
    if point == telemetry.REQUEST_SENT:
        stop()
        os.kill(os.getpid(), signal.SIGINT)

with flowbed.open(sys.argv[1]) as bed:
    bed.add("handbook", kind="files", location=sys.argv[2])
    stop = telemetry.listen(interrupt)
    try:
        bed.run()
    except KeyboardInterrupt:
        print(dict(bed.status().chunks))
    print(bed.run().chunks)
"""


@pytest.mark.usefixtures("interruptible")
def test_run_interrupted_by_ctrl_c_releases_its_claims_first(docs: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches the caller once every claim is released, and the same object can run again at once."""
    with CountingProcess(delay=0.3) as provider:
        named = json.dumps({"server": provider.address})
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, str(tmp_path / "project"), str(docs)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "FLOWBED_MODEL_OPTIONS": named},
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["{'NONE': 2}", "2"]


def test_open_call_after_close_says_that_the_project_is_closed(tmp_path: Path) -> None:
    bed = flowbed.open(tmp_path)
    bed.close()
    with pytest.raises(flowbed.errors.Rejected, match="this project is closed; open it again"):
        bed.search("x")
    bed.close()


@pytest.mark.parametrize("call", ["run", "plan", "find_unembedded"])
def test_run_list_in_place_of_names_says_how_to_pass_them(docs: Path, tmp_path: Path, call: str) -> None:
    with flowbed.open(tmp_path / "project") as bed:
        bed.add("handbook", kind="files", location=docs)
        with pytest.raises(flowbed.errors.Rejected, match=r"pass names one by one: run\('chat', 'docs'\)"):
            getattr(bed, call)(["handbook"])


async def test_aopen_entered_without_await_opens_and_closes_the_project(docs: Path, tmp_path: Path) -> None:
    async with flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        assert (await bed.run()).embedded == 2
    async with await flowbed.aopen(tmp_path / "project") as bed:
        assert (await bed.status()).collections["handbook"].rows == 2


async def test_aopen_failed_opening_closes_what_was_opened(tmp_path: Path) -> None:
    (tmp_path / "flowbed.toml").write_text("nonsense = 1\n")
    with pytest.raises(flowbed.errors.Misconfigured, match="nonsense"):
        async with flowbed.aopen(tmp_path):
            pytest.fail("the project has no valid settings")


async def test_aopen_call_after_close_says_that_the_project_is_closed(docs: Path, tmp_path: Path) -> None:
    async with flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        await bed.run()
    for call in (bed.search("x"), bed.run(), bed.status()):
        with pytest.raises(flowbed.errors.Rejected, match="this project is closed; open it again"):
            await call


def test_run_progress_counts_each_chunk_once(docs: Path, tmp_path: Path) -> None:
    """Chunks that share a text, and chunks to delete, are counted once too, so that the count ends at the total."""
    for name in ("c", "d"):
        (docs / f"{name}.txt").write_text("Tea is served at four.\n")
    counted: list[int] = []

    def count(point: str, facts: dict[str, Any]) -> None:
        if point == telemetry.PROGRESS and facts["stage"] == "embed":
            counted.append(facts["done"])

    with flowbed.open(tmp_path / "project") as bed:
        bed.add("handbook", kind="files", location=docs)
        stop = telemetry.listen(count)
        try:
            bed.run()
            assert sum(counted) == 4
            (docs / "d.txt").unlink()
            counted.clear()
            bed.run()
        finally:
            stop()
    assert sum(counted) == 1
