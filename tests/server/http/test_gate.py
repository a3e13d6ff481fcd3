"""The gate: what it admits, and what it refuses."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from tests.server.conftest import MODEL, call, with_embeddings

from flowbed.errors import OutOfSpace
from flowbed.records.serving import Health, TierLimits
from flowbed.server.app import create_app

if TYPE_CHECKING:
    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult
    from flowbed.services.service import Service

ASKED = orjson.dumps({"model": MODEL, "input": "text"})
JSON = {"content-type": "application/json"}


class Blocked:
    """An embedding service that answers when it is released."""

    def __init__(self, service: Service) -> None:
        self._embeddings = service.embeddings
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def answer(self, requested: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        self.asked.set()
        await self.go.wait()
        return await self._embeddings.answer(requested, caller)


class Broken:
    """An embedding service that raises an unexpected exception."""

    async def answer(self, requested: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        raise ZeroDivisionError(requested.input)


def limited(service: Service, **limits: Any) -> Service:
    """Set limits of the server."""
    return replace(service, serving=replace(service.serving, **limits))


async def test_gate_response_has_an_id_and_a_processing_time(service: Service) -> None:
    """Refused requests have both too."""
    app = create_app(service)
    replies = [
        await call(app, "POST", "/v1/embeddings", ASKED, JSON),
        await call(app, "POST", "/v1/embeddings", b"{", JSON),
        await call(app, "GET", "/nowhere"),
        await call(app, "GET", "/health/live"),
    ]
    assert [reply.status for reply in replies] == [200, 400, 404, 200]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == len(replies)
    assert all(each.startswith("req_") for each in ids)
    assert all(reply.headers["openai-processing-ms"].isdigit() for reply in replies)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("trace-1:a_b.c", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("a\xe9", False),
        ("", False),
    ],
)
async def test_gate_request_id_of_a_proxy_is_kept_if_harmless(
    service: Service, sent: str, kept: bool
) -> None:
    reply = await call(create_app(service), "GET", "/health/live", headers={"x-request-id": sent})
    assert (reply.headers["x-request-id"] == sent) is kept


async def test_gate_announced_length_too_large_gets_413_unread(service: Service) -> None:
    app = create_app(limited(service, body_bytes=100))

    async def receive() -> dict[str, Any]:
        pytest.fail("the body was asked for")

    reply = await call(app, "POST", "/v1/embeddings", receive, {**JSON, "content-length": "101"})
    assert reply.status == 413
    assert reply.refused()["code"] == "request_too_large"


async def test_gate_body_without_length_is_read_up_to_the_limit(service: Service) -> None:
    app = create_app(limited(service, body_bytes=len(ASKED)))
    parts = [ASKED[:10], ASKED[10:], b" ", b" " * 1000]
    assert (await call(app, "POST", "/v1/embeddings", list(parts[:2]), JSON)).status == 200
    reply = await call(app, "POST", "/v1/embeddings", list(parts), JSON)
    assert reply.status == 413
    assert f"{len(ASKED)} bytes" in reply.refused()["message"]


async def test_gate_stalled_body_gets_408(service: Service) -> None:
    app = create_app(service, body_seconds=0.05)

    parts = [ASKED]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(), "more_body": True}

    reply = await call(app, "POST", "/v1/embeddings", receive, JSON)
    assert reply.status == 408
    assert reply.refused()["code"] == "request_timeout"


async def test_gate_beyond_the_concurrency_limit_gets_503_with_retry_after(service: Service) -> None:
    """Health and metrics still answer."""
    blocked = Blocked(service)
    app = create_app(limited(with_embeddings(service, blocked), concurrency=1))
    first = asyncio.create_task(call(app, "POST", "/v1/embeddings", ASKED, JSON))
    await blocked.asked.wait()
    second = await call(app, "GET", "/v1/models")
    assert second.status == 503
    assert second.refused()["code"] == "overloaded"
    assert second.headers["retry-after"] == "1"
    metrics = (await call(app, "GET", "/metrics")).body.decode()
    assert 'flowbed_http_requests_total{method="GET",route="/v1/models",status="503"} 1.0' in metrics
    assert re.search(r"^flowbed_coalesced_waiting\{name=.* 0\.0$", metrics, re.MULTILINE)
    assert (await call(app, "GET", "/health/live")).status == 200
    assert b"flowbed_http_requests_in_progress 2.0" in (await call(app, "GET", "/metrics")).body
    blocked.go.set()
    assert (await first).status == 200
    assert (await call(app, "GET", "/v1/models")).status == 200


async def test_gate_cancelled_request_frees_its_place(service: Service) -> None:
    blocked = Blocked(service)
    app = create_app(limited(with_embeddings(service, blocked), concurrency=1))
    first = asyncio.create_task(call(app, "POST", "/v1/embeddings", ASKED, JSON))
    await blocked.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await call(app, "GET", "/v1/models")).status == 200


async def test_gate_unexpected_exception_gives_500_without_details(service: Service) -> None:
    reply = await call(create_app(with_embeddings(service, Broken())), "POST", "/v1/embeddings", ASKED, JSON)
    assert reply.status == 500
    error = reply.refused()
    assert "text" not in error["message"]
    assert reply.headers["x-request-id"] in error["message"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"])
async def test_gate_without_keys_answers_loopback_names(service: Service, host: str) -> None:
    """Any key or none is accepted."""
    app = create_app(service)
    assert (await call(app, "GET", "/v1/models", headers={"host": host})).status == 200
    bearing = {"host": host, "authorization": "Bearer anything"}
    assert (await call(app, "GET", "/v1/models", headers=bearing)).status == 200


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.0.0.1", "", "[::2]"])
async def test_gate_without_keys_refuses_other_host_names(service: Service, host: str) -> None:
    """A page under another name may resolve to this address."""
    reply = await call(create_app(service), "GET", "/v1/models", headers={"host": host})
    assert reply.status == 401
    assert reply.refused()["code"] == "invalid_api_key"


async def test_gate_reachable_by_others_requires_a_key(service: Service) -> None:
    app = create_app(service, loopback=False)
    assert (await call(app, "GET", "/v1/models", headers={"host": "localhost"})).status == 401
    assert (await call(app, "GET", "/health/live")).status == 200


async def test_gate_with_keys_requires_one_as_openai_or_azure_send_it(service: Service) -> None:
    """Health stays open to probes, and the page, which holds no data, to browsers."""
    _, secret = await service.keys.create("mine", secret=service.bed.secret)
    app = create_app(service, loopback=False)

    async def requested(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await call(app, "GET", "/v1/models", headers={"host": "example.com", **sent})).status

    assert await requested(authorization=f"Bearer {secret}") == 200
    assert await requested(authorization=f"bearer  {secret} ") == 200
    assert await requested(api_key=secret) == 200
    assert await requested() == 401
    assert await requested(authorization="Bearer fb-wrong") == 401
    assert await requested(authorization=f"Basic {secret}") == 401
    assert await requested(authorization="Bearer \xff\xfe") == 401
    assert await requested(authorization=f"Bearer {secret[:-1]}") == 401
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/", "/page/app.js"):
        assert (await call(app, "GET", path, headers={"host": "example.com"})).status == 200
    for path in ("/nowhere", "/v1/admin/cache", "/v1/embeddings", "/v1/session"):
        assert (await call(app, "GET", path)).status == 401


async def test_gate_files_and_batches_count_as_requests_of_the_minute(service: Service) -> None:
    from flowbed.services.quotas import QuotaService

    quotas = QuotaService(
        service.bed.ledger, tiers={"default": TierLimits(requests=3)}, clock=service.bed.clock
    )
    _, secret = await service.keys.create("two", secret=service.bed.secret)
    app = create_app(replace(service, quotas=quotas))
    form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\nContent-Disposition:'
    form += b' form-data; name="file"; filename="x"\r\n\r\n\r\n--b--\r\n'
    upload = {"authorization": f"Bearer {secret}", "content-type": "multipart/form-data; boundary=b"}
    batch = {**upload, "content-type": "application/json"}
    statuses = [(await call(app, "POST", "/v1/files", form, upload)).status for _ in range(2)]
    statuses += [(await call(app, "POST", "/v1/batches", b"{}", batch)).status]
    assert statuses == [200, 200, 400]
    for path, body, headers in (("/v1/files", form, upload), ("/v1/batches", b"{}", batch)):
        refused = await call(app, "POST", path, body, headers)
        assert (refused.status, refused.refused()["code"]) == (429, "rate_limit_exceeded")
    assert (await call(app, "GET", "/v1/files", headers=upload)).status == 200


async def test_gate_reasons_of_failures_are_shown_to_admins_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may name hosts, paths, or what a provider said."""
    said = "https://secret.example/v1: no space left at /srv/secret"

    class Failing:
        async def answer(self, requested: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
            raise OutOfSpace(said)

    async def ready() -> list[Health]:
        return [Health(name="m", state="unhealthy", reason=said)]

    monkeypatch.setattr(service.models, "ready", ready)
    _, admin = await service.keys.create("admin", secret=service.bed.secret, admin=True)
    _, plain = await service.keys.create("plain", secret=service.bed.secret)
    app = create_app(with_embeddings(service, Failing()), loopback=False)
    for secret, shown in ((admin, True), (plain, False), ("fb-wrong", False), ("", False)):
        headers = {**JSON, "authorization": f"Bearer {secret}"}
        reply = await call(app, "GET", "/health/ready", headers=headers)
        assert reply.status == 503
        assert (b"secret" in reply.body) is shown
        assert reply.json["checks"][0]["reason"]
        if secret in (admin, plain):
            failed = await call(app, "POST", "/v1/embeddings", ASKED, headers)
            assert (failed.status, failed.refused()["code"]) == (503, "service_unavailable")
            assert (b"secret" in failed.body) is shown


async def test_gate_revoked_key_is_refused(service: Service) -> None:
    row, secret = await service.keys.create("mine", secret=service.bed.secret)
    await service.keys.revoke(row.id)
    reply = await call(
        create_app(service), "GET", "/v1/models", headers={"authorization": f"Bearer {secret}"}
    )
    assert reply.status == 401
    assert secret not in reply.refused()["message"]


async def test_gate_large_response_lets_small_requests_through(service: Service) -> None:
    app = create_app(service)
    large = orjson.dumps(
        {"model": MODEL, "input": [f"text {n}" for n in range(2048)], "encoding_format": "float"}
    )
    slow = asyncio.create_task(call(app, "POST", "/v1/embeddings", large, JSON))
    before = time.monotonic()
    assert (await call(app, "GET", "/health/live")).status == 200
    assert not slow.done(), time.monotonic() - before
    assert (await slow).status == 200


async def test_gate_without_keys_refuses_requests_of_other_origins(service: Service) -> None:
    """The server's own pages, and those of configured origins, may use it; with a key, any may."""
    app = create_app(service)

    async def requested(origin: str, **headers: str) -> int:
        return (await call(app, "POST", "/v1/embeddings", ASKED, {"origin": origin, **headers})).status

    assert await requested("https://example.com") == 401
    assert await requested("https://localhost.example.com:8080") == 401
    assert await requested("null") == 401
    assert await requested("http://localhost:3000") == 403
    assert await requested("http://127.0.0.1:8080") == 403
    assert await requested("http://127.0.0.1") == 200
    assert await requested("http://127.0.0.1:8080", host="127.0.0.1:8080") == 200
    assert await requested("http://127.0.0.1:8080", host="localhost:8080") == 403
    assert await requested("http://evil.example", host="evil.example") == 401
    for method, path in (
        ("DELETE", "/v1/admin/cache"),
        ("DELETE", "/v1/files/file-a"),
        ("POST", "/v1/files"),
    ):
        assert (await call(app, method, path, headers={"origin": "http://localhost:3000"})).status == 403
    reading = await call(app, "GET", "/v1/models", headers={"origin": "http://localhost:3000"})
    assert reading.status == 200
    assert "access-control-allow-origin" not in reading.headers  # so that the page does not see it
    app = create_app(limited(service, origins=("http://localhost:3000", "https://app.example")))
    assert await requested("http://localhost:3000") == 200
    assert await requested("https://app.example") == 200
    assert await requested("http://localhost:3001") == 403
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = await call(app, "OPTIONS", "/v1/embeddings", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    app = create_app(service)
    await service.keys.create("mine", secret=service.bed.secret)
    _, secret = await service.keys.create("page", secret=service.bed.secret)
    app = create_app(replace(service, keys=service.bed.keys()))
    assert await requested("https://example.com", authorization=f"Bearer {secret}") == 200


async def test_gate_probes_do_not_count_against_the_limit(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested, go = [], asyncio.Event()

    async def slow() -> list[Health]:
        requested.append("once")
        await go.wait()
        return []

    monkeypatch.setattr(service.models, "ready", slow)
    app = create_app(limited(service, concurrency=1))
    await service.keys.required()  # read from the ledger, and remembered
    probes = [asyncio.create_task(call(app, "GET", "/health/ready")) for _ in range(20)]
    async with asyncio.timeout(60):
        while not requested:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0)
    assert (await call(app, "GET", "/v1/models")).status == 200
    probes[0].cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await probes[0]
    assert {(await probe).status for probe in probes[1:]} == {200}
    assert requested == ["once"]


async def test_gate_refused_request_is_counted_for_its_route(service: Service) -> None:
    """Unknown paths share one label."""
    app = create_app(service, loopback=False)
    for method, path in (
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models/some/model"),
        ("GET", "/v1/mine"),
        ("DELETE", "/v1/embeddings"),
    ):
        assert (await call(app, method, path, ASKED, JSON)).status == 401
    metrics = (await call(app, "GET", "/metrics")).body.decode()
    for method, route in (
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models/{model:path}"),
        ("GET", "unmatched"),
        ("DELETE", "/v1/embeddings"),
    ):
        line = f'flowbed_http_requests_total{{method="{method}",route="{route}",status="401"}} 1.0'
        assert line in metrics
    for line in (
        'flowbed_queue_depth{queue="jobs"} 0.0',
        'flowbed_queue_oldest_seconds{queue="embed"} 0.0',
        'flowbed_workers{state="silent"} 0.0',
    ):
        assert line in metrics


async def test_metrics_unknown_methods_share_one_label(service: Service) -> None:
    app = create_app(service)
    for n in range(100):
        await call(app, f"METHOD{n}", "/nowhere")
    metrics = (await call(app, "GET", "/metrics")).body.decode()
    assert 'flowbed_http_requests_total{method="other",route="unmatched",status="404"} 100.0' in metrics
    assert len(app.state.metrics._by_answer) == 2
