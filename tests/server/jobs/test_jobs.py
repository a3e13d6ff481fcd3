"""/v1/jobs: what is sent is chunked, embedded and stored in the background, and its owner sees how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import threading
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from tests.server.conftest import Running, write_project
from tests.server.processes import eventually

from flowbed.bed import aopen
from flowbed.ledger.index_jobs import STAGES
from flowbed.services.jobs.stage import finish_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.conftest import Reply
    from tests.server.processes import ServerProcess


class Jobs:
    """A client of a server's jobs, and the worker that executes them when a test says so."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def create(self, *, headers: dict[str, str] | None = None, **body: Any) -> Reply:
        return self.running.call("POST", "/v1/jobs", {"collection": "notes", **body}, headers)

    def made(self, **body: Any) -> str:
        reply = self.create(**body)
        assert reply.status == 202, reply.body
        return str(reply.json["id"])

    def get(self, job: str) -> dict[str, Any]:
        reply = self.running.call("GET", f"/v1/jobs/{job}")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    def post(self, path: str, body: Any = b"") -> Reply:
        return self.running.call("POST", f"/v1/jobs/{path}", body)

    def listed(self, query: str) -> dict[str, Any]:
        reply = self.running.call("GET", f"/v1/jobs?{query}")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    def uploaded(self, name: str, content: bytes) -> str:
        """Store a file, and return its id."""
        mark = "boundary"
        form = (
            f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        headers = {"content-type": f"multipart/form-data; boundary={mark}"}
        reply = self.running.call(
            "POST", "/v1/files", form + content + f"\r\n--{mark}--\r\n".encode(), headers
        )
        assert reply.status == 200, reply.body
        return str(reply.json["id"])

    def work(self, *stages: str) -> None:
        """Execute every job that waits, in these stages or in all."""
        self.running.wait(finish_jobs(self.running.service.index_jobs, stages or STAGES))

    def rows(self, document: str, collection: str = "notes") -> list[str]:
        """Return the texts of a document's rows, in order."""
        where = {"document": document}
        reply = self.running.call(
            "POST", "/v1/search", {"query": "a", "collection": collection, "where": where, "limit": 9}
        )
        return [hit["document"] for hit in sorted(reply.json["hits"], key=lambda hit: hit["id"])]

    def versions(self, collection: str) -> int:
        reply = self.running.call("POST", "/v1/search", {"query": "a", "collection": collection})
        return int(reply.json["versions"][collection])

    def search(self, query: str, collection: str = "notes") -> list[dict[str, Any]]:
        reply = self.running.call(
            "POST", "/v1/search", {"query": query, "collection": collection, "limit": 3}
        )
        hits: list[dict[str, Any]] = reply.json.get("hits", [])
        return hits


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    running = Running(write_project(tmp_path_factory.mktemp("jobs")))
    yield Jobs(running)
    running.close()


def test_job_of_texts_is_chunked_embedded_and_stored(jobs: Jobs) -> None:
    job = jobs.made(
        texts=["a kettle in a cupboard", {"text": "a spoon", "id": "spoon", "metadata": {"n": 1}}]
    )
    before = jobs.get(job)
    assert (before["status"], before["stage"], before["counts"]["chunks"]) == ("queued", "chunking", None)
    jobs.work()
    done = jobs.get(job)
    assert (done["status"], done["stage"], done["progress"]) == ("completed", None, 1.0), done
    assert done["counts"] == {
        "documents": 2,
        "chunks": 2,
        "embedded": 2,
        "cached": 0,
        "stored": 2,
        "failed": 0,
        "skipped": 0,
    }
    (best, *_) = jobs.search("a spoon")
    assert (best["document"], best["metadata"]["n"]) == ("a spoon", 1)


def test_job_of_a_stored_file_is_read_as_a_file_is(jobs: Jobs) -> None:
    for by in ("file_id", "url"):
        file = jobs.uploaded("notes.md", b"# Kitchen\n\nThe teapot has a lid.\n" + by.encode())
        job = jobs.made(**{by: file if by == "file_id" else f"http://127.0.0.1/v1/files/{file}"})
        jobs.work()
        assert jobs.get(job)["status"] == "completed", jobs.get(job)
        (text,) = jobs.rows(file)
        assert "The teapot has a lid." in text


def test_job_with_an_unreadable_file_keeps_the_others(jobs: Jobs) -> None:
    """A document that cannot be read is listed with the reason; if none can be, the job has failed."""
    broken = jobs.uploaded("paper.pdf", b"%PDF-1.7 not really")
    job = jobs.made(file_id=broken)
    jobs.work()
    failed = jobs.get(job)
    assert (failed["status"], failed["counts"]["failed"]) == ("failed", 1)
    assert failed["errors"][0]["document"] == broken
    assert failed["error"]["message"]


def test_job_repeated_embeds_nothing_again(jobs: Jobs) -> None:
    texts = [{"id": f"again-{n}", "text": f"a sentence said twice, number {n}"} for n in range(5)]
    first, second = jobs.made(texts=texts), ""
    jobs.work()
    second = jobs.made(texts=texts)
    jobs.work()
    assert jobs.get(first)["counts"]["embedded"] == 5
    counts = jobs.get(second)["counts"]
    assert (counts["embedded"], counts["skipped"], counts["stored"]) == (0, 5, 5)


def test_job_replaces_a_document_of_the_same_id(jobs: Jobs) -> None:
    for text in ("the first edition. " * 100, "the second edition"):
        jobs.made(document={"id": "book", "text": text})
        jobs.work()
    assert jobs.rows("book") == ["the second edition"]


def test_cancel_before_work_begins_leaves_nothing(jobs: Jobs) -> None:
    job = jobs.made(document={"id": "unwanted", "text": "nobody reads this"})
    cancelled = jobs.post(f"{job}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelling")
    jobs.work()
    assert jobs.get(job)["status"] == "cancelled"
    assert jobs.rows("unwanted") == []
    # An ended job stays as it is.
    again = jobs.post(f"{job}/cancel", {"rollback": True})
    assert (again.status, again.json["status"]) == (200, "cancelled")


@pytest.mark.parametrize("stage", ["embedding", "storing"])
@pytest.mark.parametrize("rollback", [False, True])
def test_cancel_between_stages_puts_back_what_was_replaced(jobs: Jobs, stage: str, rollback: bool) -> None:
    """What is embedded is kept, unless it is rolled back; what is not is as it was before."""
    old, new = f"old-{stage}-{rollback}", f"new-{stage}-{rollback}"
    jobs.made(document={"id": old, "text": "as it was", "title": "Title", "metadata": {"n": 1}})
    jobs.work()
    job = jobs.made(texts=[{"id": old, "text": "as it is now"}, {"id": new, "text": "added"}])
    jobs.work(*(("chunking",) if stage == "embedding" else ("chunking", "embedding")))
    assert jobs.get(job)["stage"] == stage
    jobs.post(f"{job}/cancel", {"rollback": rollback})
    jobs.work()
    done = jobs.get(job)
    assert done["status"] == "cancelled"
    kept = stage == "storing" and not rollback
    assert jobs.rows(old) == (["as it is now"] if kept else ["as it was"])
    assert jobs.rows(new) == (["added"] if kept else [])
    assert done["counts"]["stored"] == (2 if kept else 0)


def test_rollback_leaves_what_another_job_wrote_since(jobs: Jobs) -> None:
    first = jobs.made(document={"id": "shared", "text": "by the first job"})
    jobs.work("chunking")
    jobs.made(document={"id": "shared", "text": "by the second job"})
    jobs.work("chunking")
    jobs.post(f"{first}/cancel", {"rollback": True})
    jobs.work()
    assert jobs.rows("shared") == ["by the second job"]


def test_retry_of_a_cancelled_job_finishes_it(jobs: Jobs) -> None:
    job = jobs.made(document={"id": "later", "text": "first cancelled, then wanted after all"})
    jobs.post(f"{job}/cancel")
    assert jobs.post(f"{job}/retry").status == 409
    jobs.work()
    assert jobs.post(f"{job}/retry").json["status"] == "queued"
    jobs.work()
    assert jobs.get(job)["status"] == "completed"
    assert jobs.rows("later") == ["first cancelled, then wanted after all"]
    refused = jobs.post(f"{job}/retry")
    assert (refused.status, refused.headers["x-should-retry"]) == (409, "false")


def test_reembed_writes_every_row_again(jobs: Jobs) -> None:
    jobs.made(collection="twice", texts=["one text", "another text"])
    jobs.work()
    versions = jobs.versions("twice")
    job = jobs.made(collection="twice", reembed=True)
    jobs.work()
    counts = jobs.get(job)["counts"]
    assert (counts["chunks"], counts["cached"], counts["stored"]) == (2, 2, 2)
    assert jobs.versions("twice") > versions
    assert len(jobs.search("one text", "twice")) == 2
    assert jobs.create(collection="nothing", reembed=True).status == 404


def test_idempotency_key_makes_one_job(jobs: Jobs) -> None:
    body: dict[str, Any] = {"texts": ["said once"]}
    first = jobs.create(headers={"idempotency-key": "k1"}, **body)
    again = jobs.create(headers={"idempotency-key": "k1"}, **body)
    assert (first.status, again.status) == (202, 200)
    assert (again.json["id"], again.headers["idempotency-replayed"]) == (first.json["id"], "true")
    assert first.headers["location"] == f"/v1/jobs/{first.json['id']}"
    by_field = jobs.create(idempotency_key="k1", **body)
    assert by_field.json["id"] == first.json["id"]
    other = jobs.create(headers={"idempotency-key": "k1"}, texts=["something else"])
    assert (other.status, other.refused()["code"]) == (422, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"
    assert jobs.create(headers={"idempotency-key": "k2"}, idempotency_key="k3", **body).status == 400
    jobs.work()
    late = jobs.create(headers={"idempotency-key": "k1"}, **body)
    assert (late.status, late.json["status"]) == (200, "completed")


def test_refused_request_uses_no_idempotency_key(jobs: Jobs) -> None:
    refused = jobs.create(headers={"idempotency-key": "fresh"}, texts=["x"], priority=101)
    assert refused.status == 400
    assert jobs.create(headers={"idempotency-key": "fresh"}, texts=["x"], priority=100).status == 202
    jobs.work()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "texts"),
        ({"texts": ["a"], "document": {"text": "b"}}, "document"),
        ({"texts": ["a"], "reembed": True}, "reembed"),
        ({"texts": []}, "texts"),
        ({"texts": [""]}, "texts"),
        ({"texts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "texts"),
        ({"texts": [{"id": "x" * 513, "text": "x"}]}, "texts"),
        ({"texts": ["a"], "collection": "No Name"}, "collection"),
        ({"texts": ["a"], "collection": "jobs"}, "collection"),
        ({"reembed": True, "model": "seeded:8", "into": "plans"}, "into"),
        ({"texts": ["a"], "chunking": {"capacity": 3}}, "chunking"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"texts": ["a"], "metadata": {"k": "v" * 513}}, "metadata"),
        ({"texts": ["a"], "priorty": 1}, "priorty"),
    ],
)
def test_invalid_job_is_refused(jobs: Jobs, body: dict[str, Any], param: str) -> None:
    reply = jobs.create(**body)
    assert reply.status == 400, reply.body
    assert (reply.refused()["param"] or "").split(".")[0].split("[")[0] == param


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"id": "a"}, "'texts[1].text' is a required property"),
        ({"text": 5}, "Invalid 'texts[1].text': Input should be a valid string."),
        ({"text": "x", "idd": "a"}, "Unrecognized request argument supplied: texts[1].idd"),
        (
            {"text": "x", "metadata": {"k": [1]}},
            "Invalid 'texts[1].metadata.k': Input should be a valid string.",
        ),
        (5, "Invalid 'texts[1]': Input should be a valid string."),
    ],
)
def test_invalid_text_of_a_job_is_named_with_its_field(jobs: Jobs, text: object, message: str) -> None:
    """A text may be a string or an object: the fault named is that of the form that was sent."""
    assert jobs.create(texts=["a", text]).refused()["message"] == message


def test_job_of_an_unknown_file_is_not_found(jobs: Jobs) -> None:
    reply = jobs.create(file_id="file-unknown")
    assert (reply.status, reply.refused()["param"]) == (404, "file_id")


def test_jobs_are_listed_by_status_and_page(jobs: Jobs) -> None:
    made = [jobs.made(collection="listed", texts=[f"listed {n}"]) for n in range(3)]
    listed = jobs.listed("collection=listed&limit=2")
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([made[2], made[1]], True)
    rest = jobs.listed(f"collection=listed&after={listed['last_id']}")
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([made[0]], False)
    jobs.post(f"{made[0]}/cancel")
    assert [each["id"] for each in jobs.listed("collection=listed&status=cancelling,completed")["data"]] == [
        made[0]
    ]
    jobs.work()
    assert len(jobs.listed("collection=listed&status=completed&order=asc")["data"]) == 2
    assert jobs.running.call("GET", "/v1/jobs?status=done").status == 400
    assert jobs.running.call("GET", "/v1/jobs?after=job_unknown").status == 404


def test_priority_orders_the_jobs_of_a_key_and_may_change(jobs: Jobs) -> None:
    low = jobs.made(texts=["can wait"], priority=10)
    high = jobs.made(texts=["urgent"], priority=90)
    assert jobs.get(low)["queue"]["ahead"] == 1
    assert jobs.get(high)["queue"]["ahead"] == 0
    changed = jobs.running.call("PATCH", f"/v1/jobs/{low}", {"priority": 100, "metadata": {"why": "hurry"}})
    assert (changed.json["priority"], changed.json["metadata"]) == (100, {"why": "hurry"})
    assert jobs.get(high)["queue"]["ahead"] == 1
    jobs.work()
    ended = jobs.running.call("PATCH", f"/v1/jobs/{low}", {"priority": 1})
    assert (ended.status, ended.headers["x-should-retry"]) == (409, "false")


def test_events_are_paged_and_numbered_without_gaps(jobs: Jobs) -> None:
    job = jobs.made(texts=["one", "two"])
    jobs.work()
    page = jobs.running.call("GET", f"/v1/jobs/{job}/events?limit=2").json
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([1, 2], True)
    rest = jobs.running.call("GET", f"/v1/jobs/{job}/events?after=2").json
    assert [each["id"] for each in rest["data"]] == list(range(3, 3 + len(rest["data"])))
    types = [each["type"] for each in (*page["data"], *rest["data"])]
    assert types[0] == "job.created"
    assert [each for each in types if each == "job.stage"] == ["job.stage"] * 2
    assert types[-1] == "job.completed"
    assert rest["data"][-1]["data"]["counts"]["stored"] == 2
    for query in ("after=-1", "after=x", "limit=0", "since=1"):
        assert jobs.running.call("GET", f"/v1/jobs/{job}/events?{query}").status == 400


def test_events_of_an_ended_job_stop_the_client(jobs: Jobs) -> None:
    """A client that has read everything gets 204, after which a browser does not connect again."""
    job = jobs.made(texts=["short"])
    jobs.work()
    events = stream(jobs.running.url, job, after=0)
    numbers = [number for number, _ in events]
    assert numbers == list(range(1, len(numbers) + 1))
    with following(jobs.running.url, job, after=numbers[-1]) as answer:
        assert answer.status == 204
    assert jobs.running.call("GET", f"/v1/jobs/{job}/events", headers={"last-event-id": "x"}).status == 400


def test_events_followed_by_a_client_that_is_cut_come_once_and_in_order(jobs: Jobs) -> None:
    """The client connects again with the last number that it has; what it is cut off after leaves nothing behind."""
    waiting = jobs.running.wait(waits())
    job = jobs.made(texts=[f"followed {n}" for n in range(3)])
    working = threading.Thread(target=jobs.work)
    seen: list[tuple[int, str]] = []
    cuts = itertools.cycle([1, 2])
    working.start()
    for _ in range(50):
        if seen and seen[-1][1] in ("job.completed", "job.failed"):
            break
        seen += stream(jobs.running.url, job, after=seen[-1][0] if seen else 0, most=next(cuts))
    working.join(60)
    assert seen[-1][1] == "job.completed"
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    eventually(lambda: jobs.running.wait(waits()) == waiting, "the end of what waited for followers")


async def waits() -> int:
    """Count the tasks of this event loop that wait for something."""
    return sum("Event.wait" in repr(each.get_coro()) for each in asyncio.all_tasks())


def test_events_are_followed_on_two_streams_at_once(jobs: Jobs) -> None:
    job = jobs.made(texts=["watched by two"])
    found: list[list[tuple[int, str]]] = [[], []]
    threads = [
        threading.Thread(target=lambda n=n: found[n].extend(stream(jobs.running.url, job, after=n)))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    jobs.work()
    for thread in threads:
        thread.join(60)
    assert found[0][1:] == found[1]
    assert found[1][-1][1] == "job.completed"


@contextlib.contextmanager
def following(url: str, job: str, *, after: int) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    try:
        connection.request("GET", f"/v1/jobs/{job}/events", headers=headers)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def stream(url: str, job: str, *, after: int, most: int = 1_000) -> list[tuple[int, str]]:
    """Read up to `most` events of a stream, then break the connection off; return their numbers and types."""
    found: list[tuple[int, str]] = []
    number = 0
    with following(url, job, after=after) as answer:
        if answer.status == 204:
            return found
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                found.append((number, value))
            if len(found) == most:
                break
    return found


def test_job_survives_kills_of_its_server(tmp_path: Path, serve: Callable[..., ServerProcess]) -> None:
    """Killed while it embeds, the job is finished by the next server, and each text is stored once."""
    write_project(tmp_path)
    number = 1_200
    server = serve(tmp_path)
    texts = [{"id": f"t{n}", "text": f"text number {n}"} for n in range(number)]
    job = asked(server, "POST", "/v1/jobs", {"collection": "notes", "texts": texts})["id"]
    wait_for(server, job, '"embedded":512')
    server.kill()
    server = serve(tmp_path)
    wait_for(server, job, "job.completed")
    done = asked(server, "GET", f"/v1/jobs/{job}")
    assert (done["status"], done["counts"]["stored"], done["progress"]) == ("completed", number, 1.0), done
    assert server.end() == 0
    status = bed_status(tmp_path)
    assert status.collections["notes"].rows == number
    assert status.chunks == {"SUCCESS": number}


def wait_for(server: ServerProcess, job: str, reached: str) -> None:
    """Wait until the events of a job say something."""
    eventually(lambda: reached in told(server, job), f"{reached} of {job}")


def asked(server: ServerProcess, method: str, path: str, body: Any = None) -> Any:
    reply = httpx.request(method, f"{server.url}{path}", json=body, timeout=60)
    assert reply.is_success, reply.text
    return reply.json()


def told(server: ServerProcess, job: str) -> str:
    """Return what a server tells of a job's events."""
    return orjson.dumps(asked(server, "GET", f"/v1/jobs/{job}/events")["data"]).decode()


def bed_status(folder: Path) -> Any:
    async def read() -> Any:
        async with await aopen(folder) as bed:
            return await bed.status()

    return asyncio.run(read())
