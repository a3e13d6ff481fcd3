"""A server that executes no jobs: a worker of its own does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.server.conftest import Running, write_project
from tests.server.processes import eventually
from tests.support.processes.running import start

from flowbed.server.app import working

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.workers.worker import Worker

SETTINGS = "[serve]\nexecute_jobs = false\n[workers]\nsweep_seconds = 0.2\n"


async def looked(worker: Worker) -> int:
    """Let the worker of a server look for work, and return how many tasks it found."""
    async with worker:
        return await worker.sweep()


def test_server_that_executes_no_jobs_leaves_them_to_a_worker(tmp_path: Path) -> None:
    running = Running(write_project(tmp_path / "project", SETTINGS))
    try:
        job = running.call("POST", "/v1/jobs", {"collection": "notes", "texts": ["a text"]}).json["id"]
        assert running.wait(looked(working(running.app, running.service))) == 0
        assert running.call("GET", f"/v1/jobs/{job}").json["status"] == "queued"
        process = start("worker", "--json", folder=running.folder, variables={})
        try:
            eventually(
                lambda: running.call("GET", f"/v1/jobs/{job}").json["status"] == "completed",
                "the worker of its own",
            )
        finally:
            process.kill()
    finally:
        running.close()
