"""Thousands of concurrent requests with repeated texts over failing providers: every vector is that of its text."""

from __future__ import annotations

import asyncio
import random
import re
import resource
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
import psutil
import pybase64
import pytest
from tests.server.conftest import write_project
from tests.server.processes import ServerProcess

from flowbed.testing.simulators import Fault, SimulatorProcess, vector_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flowbed.testing.simulators.faults import Kind

MODEL = "text-embedding-3-small"
DIMENSIONS, FEWER = 256, 64
# Open files of a process other than its connections.
FILES = 500
MOST_MEMORY = 600 * 2**20  # bytes; the server starts with a third of it
SECONDS = 300  # a deadlock fails then
RETRIED = {429, 500, 502, 503, 504}
KINDS: tuple[Kind, ...] = (
    "rate_limited",
    "error",
    "gateway",
    "truncated",
    "cut",
    "garbled",
    "wrong_order",
    "wrong_index",
    "wrong_dimension",
    "missing",
    "not_finite",
)


@contextmanager
def served(
    folder: Path, first: str, second: str, *, concurrency: int
) -> Iterator[tuple[str, psutil.Process]]:
    """Serve OpenAI's model with a fallback at a second address."""
    write_project(
        folder,
        "vector_cache_mb = 0\n"
        f'[providers.openai]\napi_key = "a"\nbase_url = "{first}/v1"\ndimensions = {DIMENSIONS}\ntimeout = 10\n'
        f'[providers.other]\nvendor = "openai"\napi_key = "b"\nbase_url = "{second}/v1"\n'
        f"dimensions = {DIMENSIONS}\ntimeout = 10\n"
        f'[serve]\nmodels = ["openai:{MODEL}"]\nfallback = {{ "openai:{MODEL}" = ["other:{MODEL}"] }}\n'
        f'dimensions = "reduce"\nconcurrency = {concurrency}\n',
    )
    process = ServerProcess(folder, "--no-log-requests")
    try:
        assert process.url, process.errors.read_text()
        yield process.url, psutil.Process(process.process.pid)
    finally:
        process.close()


def files_allowed(wanted: int) -> int:
    """Raise this process's limit of open files, and return it; the server does the same for itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return most


def mixed(chance: random.Random, distinct: int) -> dict[str, Any]:
    """Generate a request: one or more texts, some repeated, as floats or base64, with all or fewer dimensions."""
    texts = [f"text {chance.randrange(distinct)}" for _ in range(chance.choice((1, 1, 1, 2, 5, 20)))]
    body: dict[str, Any] = {"model": MODEL, "input": texts[0] if len(texts) == 1 else texts}
    if chance.random() < 0.5:
        body["encoding_format"] = "base64"
    if chance.random() < 0.3:
        body["dimensions"] = FEWER
    return body


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Read the vectors of a response, whose items must be in the order of the input."""
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array(
        [
            np.frombuffer(pybase64.b64decode(each["embedding"]), "<f4")
            if isinstance(each["embedding"], str)
            else each["embedding"]
            for each in answer["data"]
        ],
        np.float32,
    )


class Crowd:
    """Requests of which the first `size` are all in progress before any of them is sent completely."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._begun = 0
        self._all, self._go = asyncio.Event(), asyncio.Event()

    async def body(self, sent: bytes) -> AsyncIterator[bytes]:
        """Send the body of a request; its end waits for the other requests."""
        yield sent[:1]
        self._begun += 1
        if self._begun >= self.size:
            self._all.set()
        await self._go.wait()
        yield sent[1:]

    async def let_go(self, client: aiohttp.ClientSession, url: str) -> int:
        """Complete the requests once the server works on all of them; return how many it reported."""
        await self._all.wait()
        busy = 0
        while busy < self.size:
            async with client.get(f"{url}/metrics") as reply:
                found = re.search(
                    r"^flowbed_http_requests_in_progress (\S+)$", await reply.text(), re.MULTILINE
                )
            assert found is not None
            busy = round(float(found[1])) - 1  # without this request
        self._go.set()
        return busy


async def ask(
    client: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Counter[int], crowd: Crowd
) -> None:
    """Retry until there is an answer, as OpenAI's clients do, and check it."""
    sent = orjson.dumps(body)
    data: bytes | AsyncIterator[bytes] = crowd.body(sent)
    while True:
        async with client.post(url, data=data, headers={"content-type": "application/json"}) as reply:
            answer = orjson.loads(await reply.read())
            seen[reply.status] += 1
        data = sent
        if reply.status == 200:
            break
        assert reply.status in RETRIED, answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        await asyncio.sleep(0.1)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    width = body.get("dimensions", DIMENSIONS)
    expected = np.array([vector_of(MODEL, text, width) for text in texts])
    np.testing.assert_allclose(vectors(answer), expected, atol=1e-6)
    assert answer["usage"]["total_tokens"] >= 2 * len(texts)


@pytest.mark.parametrize(
    ("requests", "distinct"),
    [(800, 240), pytest.param(10_000, 3_000, marks=pytest.mark.long)],
    ids=["short", "long"],
)
def test_server_failing_providers_return_the_right_vectors(
    tmp_path: Path, requests: int, distinct: int
) -> None:
    """No text is computed twice at once, and memory stays bounded.

    All requests are under way at once, or as many as this machine lets a process have files open.
    """
    chance = random.Random(11)
    bodies = [mixed(chance, distinct) for _ in range(requests)]
    faults = [
        Fault(kind="slow", probability=0.5, delay=0.02),
        *(Fault(kind=kind, probability=0.02, retry_after=0.05) for kind in KINDS),
    ]
    seen: Counter[int] = Counter()

    at_once = min(requests, files_allowed(2 * requests) - FILES)

    async def storm(url: str) -> int:
        crowd = Crowd(at_once)
        connector = aiohttp.TCPConnector(limit=at_once + 1)
        async with (
            asyncio.timeout(SECONDS),
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(SECONDS)) as client,
            asyncio.TaskGroup() as group,
        ):
            looking = group.create_task(crowd.let_go(client, url))
            for body in bodies:
                group.create_task(ask(client, f"{url}/v1/embeddings", body, seen, crowd))
        return looking.result()

    with ExitStack() as stack:
        first, second = (
            stack.enter_context(SimulatorProcess("openai", faults=faults, seed=seed)) for seed in (1, 2)
        )
        url, process = stack.enter_context(
            served(tmp_path / "project", first.url, second.url, concurrency=2 * requests)
        )
        busy = asyncio.run(storm(url))
        held = process.memory_info().rss
        totals = [first.totals(), second.totals()]
    assert busy >= at_once
    assert seen[200] == requests
    assert [each.twice_at_once for each in totals] == [0, 0]
    # Each text is paid for once, and again only if an answer was lost.
    failed = sum(sum(each.faults.values()) - each.faults.get("slow", 0) for each in totals)
    assert failed > 0
    requested = len(
        {
            text
            for body in bodies
            for text in ([body["input"]] if isinstance(body["input"], str) else body["input"])
        }
    )
    assert sum(each.texts for each in totals) < requested + 25 * failed
    assert held < MOST_MEMORY
