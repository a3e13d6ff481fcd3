"""The typed client against `flowbed serve`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.client import AsyncClient, Client
from flowbed.errors import Misconfigured, NotFound, Rejected, Transient, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.conftest import Served

SECONDS = 60


@pytest.fixture
def client(seeded: Served) -> Iterator[Client]:
    with Client(seeded.url) as made:
        yield made


def test_client_job_of_texts_can_be_waited_for_and_searched(client: Client) -> None:
    texts: list[dict[str, Any]] = [
        {"id": "a", "text": "keys rotate", "metadata": {"page": 1}},
        {"id": "b", "text": "tea at four"},
    ]
    job = client.jobs.create("told", texts=texts, metadata={"by": "ann"}, idempotency_key="once")
    assert (
        client.jobs.create("told", texts=texts, metadata={"by": "ann"}, idempotency_key="once").id == job.id
    )
    ended = client.jobs.wait(job.id, timeout=SECONDS)
    assert (ended.status, ended.counts.stored, ended.metadata) == ("completed", 2, {"by": "ann"})
    assert [each.id for each in client.jobs.list(collection="told").data] == [job.id]

    found = client.search("keys rotate", collection="told", limit=1)
    assert found.hits[0].document == "keys rotate"
    assert found.hits[0].score == pytest.approx(1, abs=1e-3)
    only = client.search("keys rotate", collection="told", where={"page": {"$gt": 1}})
    assert only.hits == []
    (page,) = [field for field in client.fields("told").fields if field.name == "page"]
    assert page.types == {"number": 1}


def test_client_events_come_once_and_in_order_and_end_with_the_job(client: Client) -> None:
    job = client.jobs.create("followed", texts=["one", "two"])
    events = list(client.jobs.events(job.id))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "job.completed"
    assert [event.id for event in client.jobs.events(job.id, after=2)] == list(range(3, len(events) + 1))


def test_client_unknown_names_and_invalid_requests_raise_errors_of_the_tree(client: Client) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        client.search("a", collection="nowhere")
    with pytest.raises(NotFound):
        client.jobs.get("job_unknown")
    with pytest.raises(Rejected, match="one of") as refused:
        client.jobs.create("told", texts=["a"], reembed=True)
    assert not isinstance(refused.value, NotFound)
    with pytest.raises(Misconfigured, match="ftp"):
        Client("ftp://host")


def test_client_documents_are_written_listed_and_deleted(client: Client) -> None:
    """A long one goes by a job, and can be found when `put` returns."""
    small = client.documents.put("shelf", "a/b c", text="keys rotate", metadata={"page": 1})
    assert (small.id, small.status, small.metadata["page"]) == ("a/b c", "completed", 1)
    long = client.documents.put("shelf", "long", text="A sentence about tea. " * 5_000)
    assert (long.status, long.chunks > 10) == ("completed", True)
    assert client.documents.get("shelf", "a/b c") == small
    assert [each.id for each in client.documents.list("shelf").data] == ["a/b c", "long"]
    assert [each.id for each in client.documents.list("shelf", where={"page": 1}).data] == ["a/b c"]
    many = client.documents.put_many("shelf", [{"id": "c", "text": "one"}, {"id": "d", "text": "two"}])
    assert [each.id for each in many.data] == ["c", "d"]  # type: ignore[union-attr]
    assert client.documents.delete("shelf", "long").deleted
    assert client.documents.delete_many("shelf", ids=["c", "nobody"]).deleted == ["c"]
    with pytest.raises(NotFound):
        client.documents.get("shelf", "long")
    with pytest.raises(Rejected, match="text"):
        client.documents.put("shelf", "empty")


def test_client_of_a_server_that_is_not_there_says_its_address() -> None:
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(Transient, match=r"127\.0\.0\.1:1"):
        nobody.search("a")


def test_client_with_a_wrong_key_is_unauthorized(local: Served) -> None:
    with Client(local.url, key="fb-wrong") as stranger, pytest.raises(Unauthorized):
        stranger.jobs.list()
    with Client(local.url, key=local.key) as known:
        assert known.jobs.list().data == []


async def test_client_events_over_a_connection_that_is_cut_come_once_and_in_order(seeded: Served) -> None:
    """A proxy ends each connection after a few hundred bytes: every stream brings an event or two."""
    port = int(seeded.url.split(":")[2].split("/")[0])
    handlers: set[asyncio.Task[None] | None] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        server, ask = await asyncio.open_connection("127.0.0.1", port)

        async def asking() -> None:
            while request := await reader.read(2**16):
                ask.write(request)

        forwarding = asyncio.create_task(asking())
        sent = 0
        try:
            while sent < 1_200 and (piece := await server.read(300)):
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        finally:
            forwarding.cancel()
            # In the middle of the answer. A reset could take back what the client has not read yet.
            for each in (writer, ask):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    async with AsyncClient(seeded.url) as direct:
        job = await direct.jobs.create("cut", texts=[f"text {number}" for number in range(20)])
        await direct.jobs.wait(job.id)
        whole = [event async for event in direct.jobs.events(job.id)]
    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with AsyncClient(address) as client, asyncio.timeout(SECONDS):
            assert [event async for event in client.jobs.events(job.id)] == whole
    finally:
        proxy.close()
        for handler in filter(None, handlers):
            handler.cancel()
        await asyncio.gather(*filter(None, handlers), return_exceptions=True)
    assert len(handlers) > 1
