"""/v1/files over HTTP: streamed in both directions, separate for each key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import orjson
import pytest
from tests.server.conftest import Running, call, write_project

from flowbed.server.app import create_app
from flowbed.server.http import gate
from flowbed.services import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.conftest import Reply

    from flowbed.services.service import Service

BOUNDARY = "b0undary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
# Seconds before each part of a slow upload: six of them are longer than a body may stall there, one is far shorter.
PAUSE, STALL = 0.3, 1.0


def form(*fields: tuple[str, str | bytes], filename: str = "in.jsonl", ended: bool = True) -> bytes:
    """Write a form with a file in its field `file`."""
    parts = []
    for name, value in fields:
        named = f'name="{name}"' + (f'; filename="{filename}"' if name == "file" else "")
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n\r\n"
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if ended else b"")


async def stored(service: Service) -> list[str]:
    return [listed.key async for listed in service.bed.store.list("files")]


async def send(service: Service, *fields: tuple[str, str | bytes], **how: Any) -> Reply:
    return await call(create_app(service), "POST", "/v1/files", form(*fields, **how), FORM)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_files_through_the_sdk_are_sent_read_listed_and_deleted(client: openai.OpenAI) -> None:
    body = bytes(range(256)) * 20_000
    sent = client.files.create(
        file=("some name é.jsonl", body),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (sent.object, sent.bytes, sent.filename) == ("file", len(body), "some name é.jsonl")
    assert (sent.purpose, sent.status) == ("batch", "processed")
    assert sent.expires_at == sent.created_at + 3600
    assert client.files.wait_for_processing(sent.id, poll_interval=0.01) == sent
    assert client.files.content(sent.id).read() == body
    other = client.files.create(file=b"x", purpose="user_data")
    assert other.expires_at is None
    assert [file.id for file in client.files.list(limit=1)] == [other.id, sent.id]  # page after page
    assert [file.id for file in client.files.list(order="asc", purpose="batch")] == [sent.id]
    assert client.files.delete(sent.id).deleted
    client.files.delete(other.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(sent.id)
    assert client.files.list().data == []


async def test_upload_fields_in_any_order_and_body_cut_anywhere_is_read(service: Service) -> None:
    app = create_app(service)
    after = form(("file", b"\r\n--b0unda\r\nry"), ("purpose", "batch"))
    before = form(("purpose", "batch"), ("file", b"\r\n--b0unda\r\nry"))
    for whole in (after, before):
        for size in (1, 2, 7, len(whole)):
            parts = [whole[at : at + size] for at in range(0, len(whole), size)]
            reply = await call(app, "POST", "/v1/files", parts, FORM)
            assert reply.status == 200, reply
            content = await call(app, "GET", f"/v1/files/{reply.json['id']}/content")
            assert content.body == b"\r\n--b0unda\r\nry"
            assert content.headers["content-length"] == str(len(content.body))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("purpose", "batch")], "file"),
        ([("file", b"x")], "purpose"),
        ([("purpose", "rhyme"), ("file", b"x")], "purpose"),
        ([("file", b"x"), ("purpose", "batch_output")], "purpose"),
        ([("purpose", "batch"), ("colour", "red"), ("file", b"x")], "colour"),
        ([("purpose", "batch"), ("file", b"x"), ("file", b"y")], "file"),
        ([("purpose", "x" * 2_000), ("file", b"x")], "purpose"),
        ([("expires_after[seconds]", "3600"), ("purpose", "batch"), ("file", b"x")], "expires_after"),
        (
            [
                ("expires_after[seconds]", "60"),
                ("expires_after[anchor]", "created_at"),
                ("purpose", "batch"),
                ("file", b"x"),
            ],
            "expires_after[seconds]",
        ),
    ],
)
async def test_upload_invalid_field_is_refused_by_name_and_stores_nothing(
    service: Service, fields: list[tuple[str, str | bytes]], param: str
) -> None:
    reply = await send(service, *fields)
    assert reply.status == 400
    assert reply.refused()["param"] == param
    assert await stored(service) == []


async def test_upload_body_that_is_not_a_complete_form_is_refused(service: Service) -> None:
    app = create_app(service)
    assert (await call(app, "POST", "/v1/files", b"{}", {"content-type": "application/json"})).status == 415
    assert (await call(app, "POST", "/v1/files", b"", {"content-type": "multipart/form-data"})).status == 415
    assert (await call(app, "POST", "/v1/files", b"nonsense", FORM)).status == 400
    many = [(f"f{n}", "x") for n in range(20)]
    assert (await send(service, *many, ("purpose", "batch"), ("file", b"x"))).status == 400
    assert (await send(service, ("purpose", "batch"), ("file", b"x" * 100_000), ended=False)).status == 400
    assert await stored(service) == []


async def test_upload_client_leaves_midway_stores_nothing(service: Service) -> None:
    app = create_app(service)
    whole = form(("purpose", "batch"), ("file", b"x" * 3_000_000))
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": whole[:2_500_000], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pytest.fail("nobody is there to be told")

    scope = {"type": "http", "method": "POST", "path": "/v1/files", "root_path": "", "query_string": b""}
    headers = [(b"host", b"127.0.0.1"), (b"content-type", FORM["content-type"].encode())]
    await app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
    assert await stored(service) == []
    assert (await service.files.list("", limit=10, descending=True))[0] == []


async def test_upload_has_a_size_limit_of_its_own(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit applies to the announced length and to what actually arrives."""
    app = create_app(service)
    whole = form(("purpose", "batch"), ("file", b"x" * 40_000_000))
    parts = [whole[at : at + 2**20] for at in range(0, len(whole), 2**20)]
    assert (await call(app, "POST", "/v1/files", list(parts), FORM)).json["bytes"] == 40_000_000
    monkeypatch.setattr(gate, "UPLOAD_BYTES", 1_000_000)
    monkeypatch.setattr(files, "BATCH_BYTES", 100)
    announced = {**FORM, "content-length": "1000001"}
    assert (await call(app, "POST", "/v1/files", list(parts), announced)).status == 413
    assert (await call(app, "POST", "/v1/files", list(parts), FORM)).status == 413
    refused = await send(service, ("purpose", "batch"), ("file", b"x" * 101))
    assert (refused.status, refused.refused()["code"]) == (400, "file_too_large")
    assert len(await stored(service)) == 1


async def test_upload_may_take_long_while_bytes_keep_coming(service: Service) -> None:
    """A stalled upload gets 408."""
    app = create_app(service, body_seconds=STALL)
    whole = form(("purpose", "batch"), ("file", b"x" * 1_000_000))

    def slowly(parts: list[bytes]) -> Any:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(PAUSE if parts else 3600)
            return {"type": "http.request", "body": parts.pop(0), "more_body": True}

        return receive

    parts = [whole[at : at + 200_000] for at in range(0, len(whole), 200_000)]
    stuck = await call(app, "POST", "/v1/files", slowly(parts[:3]), FORM)
    assert stuck.status == 408
    assert await stored(service) == []
    finite = [*parts, b""]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(PAUSE)
        return {"type": "http.request", "body": finite.pop(0), "more_body": bool(finite)}

    assert (await call(app, "POST", "/v1/files", receive, FORM)).status == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [(b"limit=0", "limit"), (b"limit=x", "limit"), (b"order=up", "order"), (b"colour=red", "colour")],
)
def test_list_files_invalid_parameter_is_refused_by_name(server: Running, query: bytes, param: str) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/v1/files?{query.decode()}")  # noqa: S310 - our own server
    with refused.value as reply:
        assert (reply.status, orjson.loads(reply.read())["error"]["param"]) == (400, param)


def test_files_of_another_key_are_not_found(tmp_path: Path) -> None:
    running = Running(write_project(tmp_path / "project"))
    try:
        secrets = []
        for name in ("mine", "yours"):
            made = running.wait(running.service.keys.create(name, secret=running.service.bed.secret))
            secrets.append({"authorization": f"Bearer {made[1]}"})
        mine, yours = secrets
        body = form(("purpose", "batch"), ("file", b"mine"))
        sent = running.call("POST", "/v1/files", body, {**FORM, **mine})
        path = f"/v1/files/{sent.json['id']}"
        for method, at in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            assert running.call(method, at, headers=yours).status == 404
        assert running.call("GET", "/v1/files", headers=yours).json["data"] == []
        assert running.call("GET", f"{path}/content", headers=mine).body == b"mine"
    finally:
        running.close()


def test_upload_beyond_the_tiers_storage_is_refused_until_files_are_deleted(tmp_path: Path) -> None:
    running = Running(write_project(tmp_path / "project", "[serve.tiers.default]\nstored_mb = 1\n"))
    try:
        _, secret = running.wait(running.service.keys.create("mine", secret=running.service.bed.secret))
        mine = {**FORM, "authorization": f"Bearer {secret}"}
        body = form(("purpose", "batch"), ("file", b"x" * 700_000))
        kept = running.call("POST", "/v1/files", body, mine)
        refused = running.call("POST", "/v1/files", body, mine)
        assert (kept.status, refused.status) == (200, 400)
        assert refused.json["error"]["code"] == "storage_limit_exceeded"
        assert running.call("DELETE", f"/v1/files/{kept.json['id']}", headers=mine).status == 200
        assert running.call("POST", "/v1/files", body, mine).status == 200
    finally:
        running.close()
