"""Jobs that embed a collection with another model, into a collection with a space of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import Running, write_project

from flowbed.ledger.index_jobs import STAGES
from flowbed.services.jobs import reembedding
from flowbed.services.jobs.stage import finish_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = """
[serve]
models = ["seeded:64", "seeded:48"]
[sources.notes]
kind = "jsonl"
location = "notes.jsonl"
"""


class Project:
    """A server with a collection, whose rows come from a source, a client and precomputed vectors."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.running = Running(write_project(folder, SETTINGS + more, model="seeded:64"))
        (folder / "notes.jsonl").write_text('{"id": "a", "text": "from a source", "title": "Title"}\n')
        bed: Any = self.running.service.bed
        self.running.wait(bed.run())
        self.put("b", "of a client")
        self.call(
            "POST",
            "/v1/collections/notes/records",
            {"records": [{"id": "c", "vector": [1.0] * 64, "text": "with a vector"}]},
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        reply = self.running.call(method, path, b"" if body is None else body)
        assert reply.status in {200, 202}, reply.body
        return reply.json

    def put(self, document: str, text: str) -> None:
        self.call("PUT", f"/v1/collections/notes/documents/{document}", {"text": text, "metadata": {"n": 1}})

    def create(self, into: str) -> str:
        job = self.call("POST", "/v1/collections/notes/reembed", {"model": "seeded:48", "into": into})
        return str(job["id"])

    def reembed(self, into: str) -> dict[str, Any]:
        return self.worked(self.create(into))

    def worked(self, job: str) -> dict[str, Any]:
        """Execute what waits, and return the job."""
        self.work(*STAGES)
        found: dict[str, Any] = self.call("GET", f"/v1/jobs/{job}")
        return found

    def work(self, *stages: str) -> None:
        self.running.wait(finish_jobs(self.running.service.index_jobs, stages))

    def texts(self, collection: str, query: str) -> list[str]:
        found = self.call("POST", f"/v1/collections/{collection}/search", {"query": query, "limit": 9})
        return [hit["document"] for hit in found["hits"]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("project"))
    yield made
    made.running.close()


def test_reembed_with_another_model_fills_a_collection_of_its_own_space(project: Project) -> None:
    """Both are searched, each with its own model; nothing of the old one changes."""
    before = project.texts("notes", "of a client")
    job = project.reembed("notes-48")
    assert job["status"] == "completed", job
    assert (job["model"], job["into"], job["counts"]["stored"]) == ("seeded:48", "notes-48", 3)
    assert job["counts"]["embedded"] == 3
    assert project.texts("notes-48", "of a client")[0] == "of a client"
    assert sorted(project.texts("notes-48", "x")) == sorted(before)
    assert project.texts("notes", "of a client") == before


def test_reembed_turn_by_turn_follows_changes_and_sends_each_text_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is interrupted after every row goes on; what is changed or deleted meanwhile is so in the copy."""
    monkeypatch.setattr(reembedding, "SLICE", 1)
    job = project.create("notes-turns")
    project.put("gone", "is deleted meanwhile")
    project.work("chunking", "embedding")
    project.put("b", "of a client, changed")
    project.call("DELETE", "/v1/collections/notes/documents/gone")
    done = project.worked(job)
    assert done["status"] == "completed", done
    assert done["counts"]["embedded"] + done["counts"]["cached"] == 5
    assert sorted(project.texts("notes-turns", "x")) == sorted(project.texts("notes", "x"))
    project.put("b", "of a client")
    assert project.worked(project.create("notes-again"))["counts"]["embedded"] == 0  # all vectors are known


def test_reembed_with_a_paid_model_is_among_the_spending(tmp_path: Path) -> None:
    """What the job was billed is recorded for the copy, once: a second copy of known vectors costs nothing."""
    project = Project(tmp_path, '[providers.seeded]\nprice = "0.5"\n')
    bed: Any = project.running.service.bed
    try:
        jobs = [project.reembed("notes-48"), project.reembed("notes-again")]
        found = project.running.wait(bed.spending("source"))
    finally:
        project.running.close()
    assert [job["status"] for job in jobs] == ["completed"] * 2
    assert [job["counts"]["embedded"] for job in jobs] == [3, 0]
    (spent,) = [each for each in found if each.name.startswith("notes-")]
    assert (spent.name, spent.texts) == ("notes-48", 3)
    assert spent.billed == spent.planned > 0
    assert spent.cost_usd == pytest.approx(spent.billed * 0.5 / 1e6)
    assert jobs[0]["cost"]["billed_usd"] == pytest.approx(spent.cost_usd)


def test_reembed_rolled_back_leaves_nothing(project: Project) -> None:
    job = project.create("notes-back")
    project.work("chunking", "embedding")
    project.call("POST", f"/v1/jobs/{job}/cancel", {"rollback": True})
    done = project.worked(job)
    assert (done["status"], done["counts"]["stored"]) == ("cancelled", 0)
    assert project.texts("notes-back", "x") == []


def test_reembed_row_without_text_is_named(project: Project) -> None:
    """It stops no other row, and the job ends."""
    record = {"id": "bare", "vector": [1.0] * 64}
    project.call("POST", "/v1/collections/notes/records", {"records": [record]})
    done = project.reembed("notes-bare")
    project.call("DELETE", "/v1/collections/notes/records/bare")
    assert (done["status"], done["counts"]["failed"], done["counts"]["stored"]) == ("completed", 1, 3)
    assert done["errors"] == [{"document": "bare", "message": reembedding.NO_TEXT}]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "seeded:48"}, 400, "into"),
        ({"into": "other"}, 400, "model"),
        ({"model": "seeded:48", "into": "notes"}, 400, "into"),
        ({"model": "seeded:48", "into": "vs_00000000000000000000000000000000"}, 400, "into"),
        ({"model": "seeded:99", "into": "other"}, 404, "model"),
    ],
)
def test_reembed_that_would_mix_spaces_is_refused(
    project: Project, body: dict[str, str], status: int, param: str
) -> None:
    reply = project.running.call("POST", "/v1/collections/notes/reembed", body)
    assert reply.status == status, reply.body
    assert reply.json["error"]["param"] == param


def test_reembed_with_the_model_of_the_collection_fails_with_the_reason(project: Project) -> None:
    job = project.call("POST", "/v1/collections/notes/reembed", {"model": "seeded:64", "into": "other"})
    done = project.worked(job["id"])
    assert done["status"] == "failed"
    assert done["error"]["message"] == "collection notes has vectors of seeded:64 already"
