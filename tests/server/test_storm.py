"""Ten thousand requests at once, doubles among them, in front of providers that fail: every vector in its place."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
import psutil
import pybase64
from tests.server.conftest import write_project

from flowbed.testing.simulators import Fault, SimulatorProcess, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowbed.testing.simulators.faults import Kind

MODEL = "text-embedding-3-small"
DIMENSIONS, FEWER = 256, 64
REQUESTS, CONNECTIONS, DISTINCT = 10_000, 1_000, 3_000
MOST_MEMORY = 600 * 2**20  # bytes; it begins with a third of that
SECONDS = 300  # a deadlock ends here
AGAIN = {429, 500, 502, 503, 504}
KINDS: tuple[Kind, ...] = (
    "rate_limited",
    "error",
    "gateway",
    "truncated",
    "cut",
    "garbled",
    "wrong_order",
    "missing",
    "not_finite",
)


@contextmanager
def served(folder: Path, first: str, second: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serve OpenAI's model at two addresses, the second for when the first fails."""
    write_project(
        folder,
        "vector_cache_mb = 0\n"
        f'[providers.openai]\napi_key = "a"\nbase_url = "{first}/v1"\ndimensions = {DIMENSIONS}\ntimeout = 10\n'
        f'[providers.other]\nvendor = "openai"\napi_key = "b"\nbase_url = "{second}/v1"\n'
        f"dimensions = {DIMENSIONS}\ntimeout = 10\n"
        f'[serve]\nmodels = ["openai:{MODEL}"]\nfallback = {{ "openai:{MODEL}" = ["other:{MODEL}"] }}\n'
        f'dimensions = "reduce"\nconcurrency = {2 * CONNECTIONS}\n',
    )
    command = [sys.executable, "-m", "flowbed", "serve", "--config", str(folder), "--port", "0", "--json"]
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--no-log-requests"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "errors.txt").read_text()
        yield json.loads(line)["url"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def mixed(chance: random.Random) -> dict[str, Any]:
    """Make a request: one text or several, some twice, as floats or base64, whole or with fewer dimensions."""
    texts = [f"text {chance.randrange(DISTINCT)}" for _ in range(chance.choice((1, 1, 1, 2, 5, 20)))]
    body: dict[str, Any] = {"model": MODEL, "input": texts[0] if len(texts) == 1 else texts}
    if chance.random() < 0.5:
        body["encoding_format"] = "base64"
    if chance.random() < 0.3:
        body["dimensions"] = FEWER
    return body


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Read the vectors of an answer, in the order of its items, which has to be that of the input."""
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


async def ask(client: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Counter[int]) -> None:
    """Ask until there is an answer, as OpenAI's clients do, and check it."""
    sent = orjson.dumps(body)
    while True:
        async with client.post(url, data=sent, headers={"content-type": "application/json"}) as reply:
            answer = orjson.loads(await reply.read())
            seen[reply.status] += 1
        if reply.status == 200:
            break
        assert reply.status in AGAIN, answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        await asyncio.sleep(0.1)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    width = body.get("dimensions", DIMENSIONS)
    expected = np.array([vector_of(MODEL, text, width) for text in texts])
    np.testing.assert_allclose(vectors(answer), expected, atol=1e-6)
    assert answer["usage"]["total_tokens"] >= 2 * len(texts)


def test_every_vector_belongs_to_its_text_whoever_asks_at_once(tmp_path: Path) -> None:
    """No answer holds another text's vector, no text is computed twice at once, and the memory keeps to its bounds."""
    chance = random.Random(11)
    bodies = [mixed(chance) for _ in range(REQUESTS)]
    faults = [
        Fault(kind="slow", probability=0.5, delay=0.02),
        *(Fault(kind=kind, probability=0.02, retry_after=0.05) for kind in KINDS),
    ]
    seen: Counter[int] = Counter()

    async def storm(url: str) -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with (
            asyncio.timeout(SECONDS),
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(SECONDS)) as client,
            asyncio.TaskGroup() as group,
        ):
            for body in bodies:
                group.create_task(ask(client, f"{url}/v1/embeddings", body, seen))

    with ExitStack() as stack:
        first, second = (
            stack.enter_context(SimulatorProcess("openai", faults=faults, seed=seed)) for seed in (1, 2)
        )
        url, process = stack.enter_context(served(tmp_path / "project", first.url, second.url))
        asyncio.run(storm(url))
        held = process.memory_info().rss
        totals = [first.totals(), second.totals()]
    assert seen[200] == REQUESTS
    assert [each.twice_at_once for each in totals] == [0, 0]
    # Each text is paid for once, and once more only where an answer was lost.
    failed = sum(sum(each.faults.values()) - each.faults.get("slow", 0) for each in totals)
    assert failed > 0
    asked = len(
        {
            text
            for body in bodies
            for text in ([body["input"]] if isinstance(body["input"], str) else body["input"])
        }
    )
    assert sum(each.texts for each in totals) < asked + 25 * failed
    assert held < MOST_MEMORY
