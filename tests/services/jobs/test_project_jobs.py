"""`bed.jobs` and `flowbed jobs`: jobs without a server."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import write_project

import flowbed
from flowbed import errors
from flowbed.blocking import BlockingJobs
from flowbed.cli.app import run
from flowbed.services.jobs.project_jobs import ProjectJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.bed import Flowbed

HEAVY = ("numpy", "pyarrow", "lance", "onnxruntime")


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Flowbed]:
    async with await flowbed.aopen(write_project(tmp_path)) as opened:
        yield opened


async def test_jobs_of_a_project_are_created_listed_and_executed_by_wait(
    bed: Flowbed, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text("# Tea\n\nThe teapot has a lid.\n")
    first = await bed.jobs.create(
        "shelf", texts=["a kettle", {"id": "s", "text": "a spoon", "metadata": {"n": 1}}]
    )
    second = await bed.jobs.create(
        "shelf", files=[tmp_path / "page.md"], priority=90, metadata={"by": "test"}
    )
    assert (first.status, first.stage, first.counts["chunks"]) == ("queued", "chunking", None)
    assert [each.id for each in await bed.jobs.list(collection="shelf")] == [second.id, first.id]
    done = await bed.jobs.wait(first.id, timeout=60)
    assert (done.status, done.progress, done.counts["stored"]) == ("completed", 1.0, 2)
    assert (await bed.jobs.get(second.id)).metadata == {"by": "test"}
    assert (await bed.jobs.wait(second.id, timeout=60)).status == "completed"
    (hit,) = await bed.search("a spoon", collection="shelf", limit=1)
    assert (hit.document, hit.metadata["n"]) == ("a spoon", 1)


async def test_jobs_refuse_what_cannot_be_done(bed: Flowbed, tmp_path: Path) -> None:
    with pytest.raises(errors.Rejected, match="nothing to do"):
        await bed.jobs.create("shelf")
    with pytest.raises(errors.Rejected, match="cannot be read"):
        await bed.jobs.create("shelf", files=[tmp_path / "missing.md"])
    with pytest.raises(errors.Rejected, match="a mapping with text"):
        await bed.jobs.create("shelf", texts=[{"txt": "misspelt"}])
    with pytest.raises(errors.Misconfigured, match="collection"):
        await bed.jobs.create("No Name", texts=["a"])
    with pytest.raises(errors.NotFound, match="job_unknown"):
        await bed.jobs.wait("job_unknown")


async def test_job_of_another_process_is_awaited_for_some_time_only(bed: Flowbed) -> None:
    job = await bed.jobs.create("shelf", texts=["held by another"])
    now = bed.clock()
    rows: Any = bed.ledger
    # A worker on another machine, which goes on renewing its lease.
    await rows.index_jobs.hold(job.id, worker="elsewhere/1/0/x", now=now, until=now + 3_600_000_000)
    with pytest.raises(errors.Transient, match="flowbed worker"):
        await bed.jobs.wait(job.id, timeout=0.2)
    assert (await bed.jobs.cancel(job.id)).status == "cancelling"


@pytest.mark.parametrize("name", ["create", "get", "list", "cancel", "retry", "wait"])
def test_blocking_jobs_have_the_signature_and_docstring_of_the_async_ones(name: str) -> None:
    blocking, coroutine = getattr(BlockingJobs, name), getattr(ProjectJobs, name)
    assert inspect.signature(blocking) == inspect.signature(coroutine)
    assert inspect.getdoc(blocking) == inspect.getdoc(coroutine)


def test_commands_create_show_list_cancel_and_retry_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 not really")

    def said(*arguments: str, status: int = 0) -> Any:
        assert run(["jobs", *arguments, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    assert said("list") == {"jobs": []}
    done = said("create", "notes", "--text", "one", "--text", "two", "--wait")
    assert (done["status"], done["counts"]["stored"]) == ("completed", 2)
    failed = said("create", "notes", "broken.pdf", "--wait", status=1)
    assert failed["status"] == "failed"
    waiting = said("create", "notes", "--text", "three", "--priority", "10")["id"]
    assert said("cancel", waiting, "--rollback")["jobs"][0]["status"] == "cancelling"
    assert said("wait", waiting, "--timeout", "60")["status"] == "cancelled"
    assert said("retry", waiting)["jobs"][0]["status"] == "queued"
    assert [each["id"] for each in said("list", "--status", "queued")["jobs"]] == [waiting]
    assert run(["jobs", "show", failed["id"]]) == 1
    shown = capsys.readouterr().out
    assert "broken.pdf: " in shown
    assert "failed" in shown
    assert run(["jobs", "show", "job_unknown"]) == 2
    assert "No job found" in capsys.readouterr().err


def test_jobs_are_created_and_listed_without_heavy_packages(tmp_path: Path) -> None:
    write_project(tmp_path)
    asyncio.run(_opened(tmp_path))
    code = (
        "import asyncio, sys, flowbed\n"
        "async def main():\n"
        f"    async with await flowbed.aopen({str(tmp_path)!r}) as bed:\n"
        "        job = await bed.jobs.create('notes', texts=['light'])\n"
        "        await bed.jobs.list(); await bed.jobs.get(job.id); await bed.jobs.cancel(job.id)\n"
        "asyncio.run(main())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


async def _opened(folder: Path) -> None:
    async with await flowbed.aopen(folder) as bed:
        await bed.status()
