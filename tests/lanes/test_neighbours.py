"""A text that a provider or a firewall cannot bear: it is found, and its neighbours are embedded."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import stamina
from aiohttp import web

from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.errors import Misconfigured
from flowbed.lanes.budget import Budget
from flowbed.lanes.realtime import embed
from flowbed.lanes.retries import CONFIRMATIONS, REFUSALS
from flowbed.records import text_hash
from flowbed.testing.embedder import seeded
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from flowbed.lanes.outcome import Outcome

    Refuse = Callable[[Sequence[str]], web.Response | None]

ATTEMPTS = 3
PAGE = "<html><head><title>Attention Required! | Firewall</title></head><body>Blocked</body></html>"
KEY = "sk-of-this-test"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Retry at once."""
    stamina.set_testing(testing=True, attempts=ATTEMPTS, cap=True)
    yield
    stamina.set_testing(testing=False)


async def send(texts: Sequence[str], folder: Path, url: str, **options: Any) -> Outcome:
    """Send texts through the lane to a provider at an address."""
    budget = options.pop("budget", None)
    model = options.pop("model", "openai:text-embedding-3-small")
    remote: Any = open_embedder(model, cache=folder, options={"api_key": KEY, "base_url": url, **options})
    try:
        return await embed(
            {text_hash(text): text for text in texts},
            embedder=Cached(remote, [VectorMemory(limit=2**26, ttl=60)]),
            index=None,
            concurrency=4,
            budget=budget,
        )
    finally:
        await remote.aclose()


class Refusing:
    """A server of OpenAI's API with vectors of 8 numbers, which answers some requests as it is told."""

    def __init__(self, refuse: Refuse) -> None:
        self.refuse = refuse
        self.requests: list[list[str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        self.requests.append(texts)
        if (refused := self.refuse(texts)) is not None:
            return refused
        data = [
            {"index": index, "embedding": vector.tolist()} for index, vector in enumerate(seeded(texts, 8))
        ]
        return web.json_response({"data": data, "usage": {"prompt_tokens": len(texts)}})


@asynccontextmanager
async def serving(refuse: Refuse) -> AsyncIterator[tuple[Refusing, dict[str, str]]]:
    """Serve, and yield the options that lead to the server."""
    server = Refusing(refuse)
    app = web.Application()
    app.router.add_post("/embeddings", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    options = {"model": "compatible:m", "dimensions": "8", "encoding": "float", "price": "1", "items": "32"}
    try:
        yield server, {**options, "url": site.name}
    finally:
        await runner.cleanup()


def assert_only(outcome: Outcome, texts: Sequence[str], bad: Sequence[str], *reasons: str) -> None:
    """Assert that all texts have vectors, and the bad ones a final failure whose reason contains some words."""
    assert set(outcome.failures) == {text_hash(text) for text in bad}
    for kind, reason in outcome.failures.values():
        assert kind == "rejected"
        for words in reasons:
            assert words in reason
        assert KEY not in reason
    assert set(outcome.vectors) == {text_hash(text) for text in texts if text not in bad}


@pytest.mark.parametrize("kind", ["error", "gateway", "cut", "truncated", "garbled"])
@pytest.mark.parametrize("alone", [False, True])
async def test_embed_text_that_breaks_the_provider_is_found(tmp_path: Path, kind: Any, alone: bool) -> None:
    """Whatever way it fails: a status of 500, a lost connection, an answer that cannot be read; others are embedded."""
    texts = ["NaN"] if alone else [f"text {number}" for number in range(40)] + ["NaN of text"]
    simulator = Simulator(OpenAI(), faults=[Fault(kind=kind, text="NaN", status=502)])
    async with running(simulator) as url:
        outcome = await send(texts, tmp_path, f"{url}/v1")
    assert_only(outcome, texts, [text for text in texts if "NaN" in text], "answers other texts")
    assert len(simulator.account.exchanges) <= ATTEMPTS + 20
    if kind in ("error", "gateway"):
        assert not simulator.account.billed_again


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 529, 424])
async def test_embed_bad_neighbours_cost_few_requests(tmp_path: Path, status: int) -> None:
    """Three among 128 are found with the server's own words as their reason."""
    bad = ["unsupported 3", "unsupported 60", "unsupported 61"]
    texts = [f"text {number}" for number in range(125)] + bad

    def refuse(some: Sequence[str]) -> web.Response | None:
        broken = any("unsupported" in text for text in some)
        return web.json_response({"error": "unsupported value: NaN"}, status=status) if broken else None

    async with serving(refuse) as (server, options):
        outcome = await send(texts, tmp_path, **options)
    assert_only(outcome, texts, bad, f"answered {status}: unsupported value: NaN")
    assert len(server.requests) <= 60
    sent = [text for some in server.requests if refuse(some) is None for text in some]
    assert len(sent) == len(set(sent))


@pytest.mark.parametrize("status", [500, 503, 424])
async def test_embed_provider_down_for_everybody_makes_no_dead_letter(tmp_path: Path, status: int) -> None:
    """Its texts wait; one question, asked a few times, is all besides the attempts, however many requests fail."""
    texts = [f"text {number}" for number in range(320)]
    async with serving(lambda _: web.json_response({"error": "down"}, status=status)) as (server, options):
        outcome = await send(texts, tmp_path, **options)
    assert {kind for kind, _ in outcome.failures.values()} == {"transient"}
    assert (len(outcome.failures), len(server.requests)) == (320, 10 * ATTEMPTS + CONFIRMATIONS)


async def test_embed_provider_that_asks_to_wait_is_busy(tmp_path: Path) -> None:
    """No text is at fault where the provider says when to come back, though it answers other requests."""

    def refuse(some: Sequence[str]) -> web.Response | None:
        busy = any("slow" in text for text in some)
        return web.json_response({}, status=503, headers={"Retry-After": "0"}) if busy else None

    async with serving(refuse) as (server, options):
        outcome = await send(["slow", *map(str, range(40))], tmp_path, **options)
    assert {kind for kind, _ in outcome.failures.values()} == {"transient"}
    assert len(server.requests) == 1 + ATTEMPTS


async def test_embed_provider_fails_during_the_search_blames_no_more_texts(tmp_path: Path) -> None:
    """What was not tried alone while others were answered waits for the next run."""
    calls = 0

    def refuse(some: Sequence[str]) -> web.Response | None:
        nonlocal calls
        calls += 1
        down = calls > ATTEMPTS + 1 or any("bad" in text for text in some)
        return web.json_response({}, status=500) if down else None

    async with serving(refuse) as (_, options):
        outcome = await send(["bad", *map(str, range(31))], tmp_path, **options)
    assert {kind for kind, _ in outcome.failures.values()} == {"transient"}
    assert len(outcome.failures) == 32


@pytest.mark.parametrize("status", [401, 403, 404, 405, 406, 302])
@pytest.mark.parametrize("count", [1, 60])
async def test_embed_firewall_refuses_one_text_alone(tmp_path: Path, status: int, count: int) -> None:
    """A page in answer to one text is about this text; the reason has its title, and no advice about keys."""
    texts = ["' OR 1=1 --", *(f"text {number}" for number in range(count - 1))]
    headers = {"Location": "https://blocked.test"} if status == 302 else {}

    def refuse(some: Sequence[str]) -> web.Response | None:
        if not any("OR 1=1" in text for text in some):
            return None
        return web.Response(text=PAGE, status=status, content_type="text/html", headers=headers)

    async with serving(refuse) as (server, options):
        outcome = await send(texts, tmp_path, **options)
    assert_only(outcome, texts, texts[:1], str(status), *(["Firewall"] if status != 302 else []))
    ((_, reason),) = outcome.failures.values()
    assert "api_key" not in reason
    assert len(server.requests) <= 20


@pytest.mark.parametrize("body", [PAGE, '{"error": {"message": "Forbidden"}}', "Forbidden", ""])
async def test_embed_firewall_refuses_everything_is_misconfigured(tmp_path: Path, body: str) -> None:
    """A key that may do nothing is advised about, after one question whether it is the texts."""

    def refuse(_: Sequence[str]) -> web.Response:
        return web.Response(text=body, status=403)

    async with serving(refuse) as (server, options):
        with pytest.raises(Misconfigured, match="403"):
            await send(["one", "two"], tmp_path, **options)
    assert len(server.requests) == 2


async def test_embed_key_revoked_meanwhile_is_misconfigured(tmp_path: Path) -> None:
    """Requests that succeeded before it was revoked do not make texts guilty."""
    calls = 0

    def refuse(_: Sequence[str]) -> web.Response | None:
        nonlocal calls
        calls += 1
        return web.Response(text=PAGE, status=403, content_type="text/html") if calls > 3 else None

    async with serving(refuse) as (server, options):
        with pytest.raises(Misconfigured, match="firewall"):
            await send([f"text {number}" for number in range(320)], tmp_path, **options)
    assert len(server.requests) <= 20


REQUEST_REFUSALS: list[tuple[int, Any]] = [
    (400, {"object": "error", "message": "The model does not support Embeddings API", "code": 400}),
    (400, {"error": "this model does not support embeddings"}),
    (501, {"error": {"message": "This server does not support embeddings. Start it with `--embeddings`"}}),
    (422, {"detail": [{"loc": ["body", "model"], "msg": "Input should be 'm'", "type": "enum"}]}),
    (422, {"detail": [{"loc": ["body", "dimensions"], "msg": "Input should be less than 9"}]}),
    (422, {"detail": [{"loc": ["body", "foo"], "msg": "Extra inputs are not permitted"}]}),
    (422, {"detail": [{"loc": ["header", "x-team"], "msg": "Field required"}]}),
    (400, {"error": {"message": "Invalid value", "param": "encoding_format", "code": None}}),
    (400, {"error": {"message": "Invalid value", "param": "$.input_type"}}),
    (400, {"message": "Bad", "param": "dimensions"}),
    (400, {"error": {"message": "Unknown model 'm'"}}),
]


@pytest.mark.parametrize(("status", "body"), REQUEST_REFUSALS)
async def test_embed_refusal_of_the_request_itself_is_misconfigured_at_once(
    tmp_path: Path, status: int, body: Any
) -> None:
    """No other text would help: one request, no dead letter."""
    async with serving(lambda _: web.json_response(body, status=status)) as (server, options):
        with pytest.raises(Misconfigured, match=f"answered {status}"):
            await send(["one", "two", "three"], tmp_path, **options)
    assert len(server.requests) == 1


async def test_embed_refusal_of_the_request_as_the_servers_fault_is_misconfigured(tmp_path: Path) -> None:
    """Some servers answer 500 to a model without embeddings: one question more, and no attempts."""

    def refuse(_: Sequence[str]) -> web.Response:
        return web.json_response({"error": "this model does not support embeddings"}, status=500)

    async with serving(refuse) as (server, options):
        with pytest.raises(Misconfigured, match="does not support embeddings"):
            await send(["one", "two", "three"], tmp_path, **options)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"loc": ["body", "input", 1], "msg": "too odd"}]},
        {"detail": [{"loc": ["body", "input", "list[str]", 1], "msg": "too odd"}]},
        {"error": {"message": "too odd", "param": "input[1]"}},
        {"error": {"message": "too odd", "param": "$.input.1"}},
    ],
)
async def test_embed_refusal_that_names_a_text_costs_one_request_more(tmp_path: Path, body: Any) -> None:

    def refuse(some: Sequence[str]) -> web.Response | None:
        return web.json_response(body, status=422) if "odd" in some else None

    texts = ["a", "odd", "three"]  # sent in this order, since shorter texts come first
    async with serving(refuse) as (server, options):
        outcome = await send(texts, tmp_path, **options)
    assert_only(outcome, texts, ["odd"], "too odd")
    assert server.requests == [texts, ["a", "three"]]


async def test_embed_refusal_of_every_text_in_unknown_words_is_misconfigured(tmp_path: Path) -> None:
    """After a few single texts, a harmless one tells that it is the request."""
    texts = [f"text {number}" for number in range(2_000)]
    async with serving(lambda _: web.json_response({"error": "no way"}, status=400)) as (server, options):
        with pytest.raises(Misconfigured, match="refuses every text"):
            await send(texts, tmp_path, **options)
    assert len(server.requests) <= 10 * REFUSALS


async def test_embed_message_that_repeats_a_text_is_not_taken_for_the_servers(tmp_path: Path) -> None:
    """A text about models that do not support embeddings is refused alone."""
    text = "This model does not support embeddings, says the text itself."

    def refuse(some: Sequence[str]) -> web.Response | None:
        return web.json_response({"error": f"cannot embed: {text}"}, status=400) if text in some else None

    texts = [text, *map(str, range(20))]
    async with serving(refuse) as (_, options):
        outcome = await send(texts, tmp_path, **options)
    assert_only(outcome, texts, [text], "answered 400: cannot embed")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no provider is available", "code": 502}}, "no provider is available"),
        ({"error": "out of memory"}, "out of memory"),
        ({"object": "error", "message": "out of memory"}, "out of memory"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": {"reason": 7}}, "reason"),
    ],
)
async def test_embed_error_within_status_200_shows_what_the_server_said(
    tmp_path: Path, body: Any, said: str
) -> None:
    """Not six times: once, and once with a harmless text."""
    async with serving(lambda _: web.json_response(body)) as (server, options):
        with pytest.raises(Misconfigured, match=f"answered 200 with an error: .*{said}"):
            await send(["one", "two"], tmp_path, **options)
    assert len(server.requests) == 2


async def test_embed_error_within_status_200_for_one_text_fails_it_alone(tmp_path: Path) -> None:

    def refuse(some: Sequence[str]) -> web.Response | None:
        return web.json_response({"error": "cannot embed this"}) if "odd" in some else None

    texts = ["odd", *map(str, range(40))]
    async with serving(refuse) as (_, options):
        outcome = await send(texts, tmp_path, **options)
    assert_only(outcome, texts, ["odd"], "cannot embed this")


async def test_embed_question_is_paid_from_the_budget(tmp_path: Path) -> None:
    """What is sent to find out whether the provider answers counts as spent."""

    def refuse(some: Sequence[str]) -> web.Response | None:
        return web.json_response({}, status=500) if "bad" in some else None

    budget = Budget(1.0)
    async with serving(refuse) as (server, options):
        outcome = await send(["bad"], tmp_path, budget=budget, **options)
    assert outcome.perhaps_billed == [1]
    assert budget.spent_usd == pytest.approx(1 / 1e6)
    assert len(server.requests) == ATTEMPTS + 1
    np.testing.assert_array_equal(list(outcome.vectors), [])
