"""Faults on demand, rate limits on a clock, and the account of a simulator."""

from __future__ import annotations

import asyncio
import email.utils
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import openai
import pytest

from flowbed.errors import Misconfigured
from flowbed.testing.simulators import Cohere, Fault, Limits, OpenAI, Simulator, account, running, vector_of
from flowbed.testing.simulators.faults import read_fault, read_faults
from flowbed.testing.simulators.limits import Buckets, in_the_way
from flowbed.testing.simulators.wire import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.testing.simulators.conftest import Post

    from flowbed.testing.simulators.faults import Kind

MODEL = "text-embedding-3-small"


class Clock:
    """A clock that stands still until it is moved; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(OpenAI())


@pytest.fixture
async def url(simulator: Simulator) -> AsyncIterator[str]:
    async with running(simulator) as url:
        yield f"{url}/v1/embeddings"


def request(*texts: str) -> dict[str, Any]:
    return {"model": MODEL, "input": list(texts), "dimensions": 4}


async def statuses(post: Post, url: str, number: int) -> list[int]:
    return [(await post(url, request("a"))).status for _ in range(number)]


async def test_fault_with_call_numbers_affects_those_calls(
    simulator: Simulator, url: str, post: Post
) -> None:
    """Each order counts from 1 again."""
    for _ in range(2):
        simulator.order(Fault(kind="error", calls=(2, 4)), Fault(kind="quota", calls=(3,)))
        assert await statuses(post, url, 5) == [200, 500, 429, 500, 200]


async def test_fault_with_probability_affects_a_share(simulator: Simulator, url: str, post: Post) -> None:
    """The same seed affects the same calls, another seed others."""

    async def struck(seed: int) -> list[int]:
        simulator.order(Fault(kind="error", probability=0.3), seed=seed)
        return await statuses(post, url, 40)

    first = await struck(1)
    assert set(first) == {200, 500}
    assert first == await struck(1)
    assert first != await struck(2)


async def test_fault_with_match_affects_matching_requests(simulator: Simulator, url: str, post: Post) -> None:
    """Path, model and text select requests, and only these are counted."""
    simulator.order(
        Fault(kind="error", path="/v1/models*"),
        Fault(kind="error", model="*-large"),
        Fault(kind="error", text="poison", calls=(2,)),
    )
    assert (await post(url, request("a"))).status == 200
    assert (await post(url.replace("embeddings", "models"), {}, method="GET")).status == 500
    assert (await post(url, {"model": "text-embedding-3-large", "input": "a"})).status == 500
    assert [(await post(url, request("a", "some poison"))).status for _ in range(3)] == [200, 500, 200]


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [("seconds", "retry-after", "2"), ("milliseconds", "retry-after-ms", "1500")],
)
async def test_retry_after_is_sent_in_the_chosen_header(
    simulator: Simulator, url: str, post: Post, header: Any, name: str, value: str
) -> None:
    """Whole seconds or milliseconds, and no other header."""
    simulator.order(Fault(kind="rate_limited", retry_after=1.5, retry_header=header))
    response = await post(url, request("a"))
    advice = {key.lower(): found for key, found in response.headers.items() if "etry-" in key}
    assert advice == {name: value}


async def test_retry_after_date_follows_the_simulators_clock(post: Post) -> None:
    simulator = Simulator(OpenAI(), now=lambda: 1_700_000_000.0)
    simulator.order(Fault(kind="rate_limited", retry_after=90, retry_header="date"))
    async with running(simulator) as url:
        response = await post(f"{url}/v1/embeddings", request("a"))
    assert email.utils.parsedate_to_datetime(response.headers["Retry-After"]).timestamp() == 1_700_000_090


async def test_retry_after_without_header_is_in_the_body(simulator: Simulator, url: str, post: Post) -> None:
    simulator.order(Fault(kind="rate_limited", retry_after=2, retry_header="none"))
    response = await post(url, request("a"))
    assert "Please try again in 2s" in response.json["error"]["message"]
    assert not {"retry-after", "retry-after-ms"} & {name.lower() for name in response.headers}


async def test_rate_limit_without_retry_after_has_no_header(
    simulator: Simulator, url: str, post: Post
) -> None:
    codes: dict[Kind, str] = {"rate_limited": "rate_limit_exceeded", "quota": "insufficient_quota"}
    for kind, code in codes.items():
        simulator.order(Fault(kind=kind))
        response = await post(url, request("a"))
        assert response.status == 429
        assert not {"retry-after", "retry-after-ms"} & {name.lower() for name in response.headers}
        assert response.json["error"]["code"] == code


async def test_faults_of_vectors_corrupt_answers(simulator: Simulator, url: str, post: Post) -> None:
    """Order, index, length, number and values of vectors go wrong as ordered."""
    right = [vector_of(MODEL, text, 4) for text in ("a", "b")]

    async def data(kind: Any) -> list[tuple[int, Any]]:
        simulator.order(Fault(kind=kind))
        response = await post(url, request("a", "b"))
        assert response.status == 200
        return [(each["index"], each["embedding"]) for each in response.json["data"]]

    def same(found: list[tuple[int, Any]], expected: list[tuple[int, Any]]) -> bool:
        return len(found) == len(expected) and all(
            index == place and np.array_equal(np.float32(vector), wanted)
            for (index, vector), (place, wanted) in zip(found, expected, strict=True)
        )

    assert same(await data("slow"), [(0, right[0]), (1, right[1])])
    assert same(await data("wrong_order"), [(1, right[1]), (0, right[0])])
    assert same(await data("wrong_index"), [(0, right[0]), (0, right[1])])
    assert same(await data("wrong_dimension"), [(0, right[0][:3]), (1, right[1][:3])])
    assert same(await data("missing"), [(0, right[0])])
    assert (await data("not_finite"))[1] == (1, [None] * 4)


async def test_broken_answers_are_billed(simulator: Simulator, url: str) -> None:
    """A cut connection gives no answer, a truncated one half a body, a garbled one invalid JSON."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        simulator.order(Fault(kind="cut"))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(url, json=request("a"))
        simulator.order(Fault(kind="truncated"))
        async with session.post(url, json=request("a")) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        simulator.order(Fault(kind="garbled"))
        async with session.post(url, json=request("a")) as answer:
            assert not (await answer.read()).startswith(b"{")
        simulator.order(Fault(kind="gateway", status=502))
        async with session.post(url, json=request("a")) as answer:
            assert (answer.status, answer.content_type) == (502, "text/html")
    assert simulator.account.totals().billed == 3
    assert [each.status for each in simulator.account.exchanges] == [0, 200, 200, 502]


async def test_slow_fault_waits_on_the_simulators_clock(post: Post) -> None:
    clock = Clock()
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay=30)], clock=clock, sleep=clock.sleep)
    async with running(simulator) as url:
        response = await post(f"{url}/v1/embeddings", request("a"))
    assert (response.status, clock.now) == (200, 1030)


async def test_client_that_disconnects_during_a_delay_is_not_billed(simulator: Simulator, url: str) -> None:
    """It is in the account without an answer."""
    simulator.order(Fault(kind="slow", delay=60))
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        with pytest.raises(TimeoutError):
            await session.post(url, json=request("a"), timeout=aiohttp.ClientTimeout(total=1))
    while not simulator.account.exchanges:  # noqa: ASYNC110 - the account tells nobody
        await asyncio.sleep(0.01)
    (exchange,) = simulator.account.exchanges
    assert (exchange.status, exchange.billed, exchange.faults) == (0, 0, ["slow"])


async def test_incomplete_request_is_not_recorded(simulator: Simulator, url: str) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert not simulator.account.exchanges


async def test_cut_fault_on_another_server_says_how_to_serve(simulator: Simulator) -> None:
    simulator.order(Fault(kind="cut"))
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    with pytest.raises(RuntimeError, match="serve simulators with"):
        await simulator(scope, receive, send)


async def test_simulator_closed_during_an_answer_logs_nothing(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Simulator(OpenAI(), faults=[Fault(kind="slow", delay=60)])) as url:
        asked = asyncio.ensure_future(post(f"{url}/v1/embeddings", request("a")))
        await asyncio.sleep(0.2)
    with pytest.raises(aiohttp.ClientConnectionError):
        await asked
    assert not caplog.records


async def test_account_counts_concurrent_duplicates(simulator: Simulator, url: str, post: Post) -> None:
    """How many texts were requested while being answered, and how many calls overlapped."""
    simulator.order(Fault(kind="slow", delay=0.3, calls=(1, 2, 3)))
    await asyncio.gather(
        post(url, request("a", "b")), post(url, request("b", "c")), post(url, request("d", "d"))
    )
    await post(url, request("a", "b"))
    totals = simulator.account.totals()
    assert (totals.twice_at_once, totals.most_at_once, totals.requests, totals.texts) == (1, 3, 4, 8)
    assert totals.statuses == {200: 4}
    assert totals.faults == {"slow": 3}


async def test_control_endpoints_need_no_key(url: str, post: Post) -> None:
    """Faults are replaced, and requests are reported and reset, over HTTP."""
    control = url.removesuffix("/v1/embeddings") + "/_simulator"
    fault = {"kind": "rate_limited", "calls": [1], "retry_after": 0.5}
    assert (await post(f"{control}/faults", {"faults": [fault], "seed": 3}, key="")).json == {"faults": 1}
    assert await statuses(post, url, 2) == [429, 200]
    in_force = (await post(f"{control}/faults", {}, key="", method="GET")).json["faults"]
    assert fault.items() <= in_force[0].items()
    response = (await post(f"{control}/requests", {}, key="", method="GET")).json
    assert response["totals"]["statuses"] == {"429": 1, "200": 1}
    assert [each["texts"] for each in response["requests"]] == [["a"], ["a"]]
    assert (response["requests"][0]["key"], response["requests"][0]["faults"]) == ("key", ["rate_limited"])
    assert (await post(f"{control}/requests", {}, key="", method="DELETE")).status == 200
    assert (await post(f"{control}/requests", {}, key="", method="GET")).json["requests"] == []
    assert (await post(f"{control}/elsewhere", {}, key="")).status == 404


@pytest.mark.parametrize(
    "order",
    [
        b"{",
        {},
        [],
        {"faults": 1},
        {"faults": [{"kind": "none"}]},
        {"faults": [{"kind": "slow", "delays": 1}]},
    ],
    ids=str,
)
async def test_control_invalid_fault_is_refused(url: str, post: Post, order: Any) -> None:
    """An invalid order is a 400 with the reason, and changes nothing."""
    response = await post(url.replace("v1/embeddings", "_simulator/faults"), order, key="")
    assert response.status == 400
    assert response.json["error"]


def test_read_fault_parses_a_line() -> None:
    assert read_fault("slow,delay=0.5") == Fault(kind="slow", delay=0.5)
    written = "rate_limited,calls=1+3,retry_after=2,retry_header=date,text=a b"
    assert read_fault(written) == Fault(
        kind="rate_limited", calls=(1, 3), retry_after=2, retry_header="date", text="a b"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("late", "no fault is called 'late'"),
        ("slow,delay", "not name=value"),
        ("slow,delay=soon", "delay"),
        ("slow,delay=-1", "delay and delay_per_text are not negative"),
        ("error,status=200", "400 to 599"),
        ("error,probability=2", "between 0 and 1"),
        ("error,calls=0", "count from 1"),
        ("error,retry_after=-1", "retry_after is not negative"),
        ("error,when=now", "has no .'when'."),
    ],
)
def test_read_fault_invalid_line_is_misconfigured(line: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        read_fault(line)


def test_read_faults_returns_the_written_faults() -> None:
    assert read_faults([{"kind": "error", "calls": [1]}]) == (Fault(kind="error", calls=(1,)),)
    with pytest.raises(Misconfigured):
        read_faults("slow")


def test_index_faults_for_a_vendor_without_indexes_are_refused() -> None:
    with pytest.raises(Misconfigured, match="answers without an index"):
        Simulator(Cohere(), faults=[Fault(kind="wrong_order")])


async def test_limit_exceeded_refuses_with_the_wait(post: Post) -> None:
    """The wait is given to the millisecond; another key is not refused."""
    clock = Clock()
    simulator = Simulator(OpenAI(), limits=Limits(requests=10, tokens=60), clock=clock)
    async with running(simulator) as url:
        address = f"{url}/v1/embeddings"
        first = await post(address, request("a " * 40), key="one")
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        assert first.headers["x-ratelimit-remaining-tokens"] == "19"
        assert first.headers["x-ratelimit-reset-tokens"] == "41s"
        assert first.headers["x-ratelimit-remaining-requests"] == "9"
        second = await post(address, request("a " * 40), key="one")
        assert second.status == 429
        assert second.json["error"] | {"message": ""} == {
            "message": "",
            "type": "tokens",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert "Limit 60, Used 41, Requested 41. Please try again in 22s" in second.json["error"]["message"]
        assert (second.headers["retry-after"], second.headers["retry-after-ms"]) == ("22", "22000")
        assert second.headers["x-ratelimit-remaining-requests"] == "8"
        assert (await post(address, request("a " * 40), key="two")).status == 200
        clock.now += 21.9
        assert (await post(address, request("a " * 40), key="one")).status == 429
        clock.now += 0.1
        assert (await post(address, request("a " * 40), key="one")).status == 200
        never = await post(address, request("a " * 70), key="one")
        assert never.status == 429
        assert "Request too large" in never.json["error"]["message"]
        assert "retry-after" not in never.headers


def test_buckets_allow_at_most_burst_plus_rate() -> None:
    clock = Clock()
    buckets = Buckets(Limits(tokens=6000, burst=1), clock)
    passed, seconds = 0, 30
    for _ in range(seconds * 1000):
        clock.now += 0.001
        rooms = buckets.take("key", {"requests": 1, "inputs": 1, "tokens": 7})
        passed += 7 * (in_the_way(rooms) is None)
    assert 0.99 * 100 * seconds <= passed <= 100 * (seconds + 1)


def test_buckets_without_limits_refuse_nothing() -> None:
    assert Buckets(Limits(), Clock()).take("key", {"requests": 1, "inputs": 1, "tokens": 10**9}) == ()


async def test_several_limits_exceeded_report_the_longest_wait(post: Post) -> None:
    async with running(Simulator(OpenAI(), limits=Limits(requests=1, inputs=2), clock=Clock())) as url:
        assert (await post(f"{url}/v1/embeddings", request("a", "b"))).status == 200
        response = await post(f"{url}/v1/embeddings", request("a"))
    assert response.json["error"]["type"] == "requests"
    assert response.headers["retry-after"] == "60"


async def test_simulator_with_other_vectors_returns_them(post: Post) -> None:

    def ones(model: str, texts: Any, dimensions: int, input_type: str) -> Any:
        assert (model, input_type) == (MODEL, "")
        return np.full((len(texts), dimensions), 0.5, np.float32)

    async with running(Simulator(OpenAI(), vectors=ones)) as url:
        response = await post(f"{url}/v1/embeddings", request("a"))
    assert response.json["data"][0]["embedding"] == [0.5] * 4


async def test_quota_raises_the_rate_limit_error_of_openais_client(url: str, simulator: Simulator) -> None:
    """Its code tells a quota from a rate limit."""
    simulator.order(Fault(kind="quota"))
    async with openai.AsyncOpenAI(
        base_url=url.removesuffix("/embeddings"), api_key="k", max_retries=0
    ) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "insufficient_quota"


def test_account_keeps_recent_requests_and_all_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "KEPT", 10)
    kept = account.Account()
    for number in range(7):
        call = Call(model=MODEL, texts=[f"{number}", "b"], tokens=3, form="float")
        kept.begin(call)
        exchange = account.Exchange(
            method="POST",
            path="/v1/embeddings",
            key="k",
            model=call.model,
            input_type="",
            texts=call.texts,
            status=200,
            billed=call.tokens,
            faults=(),
        )
        kept.end(exchange, call)
    assert [each.texts[0] for each in kept.exchanges] == ["4", "5", "6"]
    totals = kept.totals()
    assert (totals.requests, totals.texts, totals.billed, totals.twice_at_once) == (7, 14, 21, 0)
