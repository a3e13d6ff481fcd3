"""A process that embeds as much as it can at a provider, with or without obeying its rate limits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sides.serve import serve
from flowbed.embedding import Closes, Rates, open_embedder
from flowbed.embedding.cache.redis import open_redis
from flowbed.embedding.wrappers.buckets import BURST, MemoryBuckets, RedisBuckets
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import TooMany, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.embedding import Embedder

WORDS = (
    "the",
    "key",
    "of",
    "each",
    "gateway",
    "is",
    "rotated",
    "every",
    "month",
    "and",
    "stays",
    "valid",
    "for",
    "a",
)
FIRST_RETRY = 0.1  # s, if a refusal has no retry time


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to embed, where and for how long; with `limited`, `rates` per minute are obeyed."""

    model: str
    options: Mapping[str, str]
    rates: Mapping[str, int]
    redis: str
    seconds: float
    callers: int
    texts: int
    words: int
    limited: bool
    seed: int


def drive(**arguments: Any) -> dict[str, int]:  # any JSON value
    """Let many callers embed for some seconds, and return the outcomes of their calls and texts."""
    return asyncio.run(_drive(Load(**arguments)))


async def _drive(load: Load) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        bare = open_embedder(load.model, cache=Path(folder), options=load.options)
    client = open_redis(load.redis) if load.redis else None
    buckets = RedisBuckets(client, burst=BURST) if client else MemoryBuckets()
    embedder: Embedder = RateLimited(bare, Rates(**load.rates), buckets, name="key") if load.limited else bare
    outcomes: Counter[str] = Counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(load.seconds), asyncio.TaskGroup() as group:
            for number in range(load.callers):
                group.create_task(_call(embedder, load, random.Random(f"{load.seed} {number}"), outcomes))
    if isinstance(bare, Closes):
        await bare.aclose()
    if client:
        await client.aclose()
    return dict(outcomes)


async def _call(embedder: Embedder, load: Load, chance: random.Random, outcomes: Counter[str]) -> None:
    """Make one call after the other, each until it is answered."""
    while True:
        texts = [_text(chance, load.words) for _ in range(chance.randint(1, load.texts))]
        for attempt in itertools.count():
            try:
                await embedder.embed(texts, purpose="document")
            except Transient as error:
                outcomes["429" if isinstance(error, TooMany) else "other failures"] += 1
                await asyncio.sleep(error.retry_after or FIRST_RETRY * 2**attempt)
            else:
                outcomes["answered"] += 1
                outcomes["texts"] += len(texts)
                break


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(words // 4, words)))


if __name__ == "__main__":
    serve({"ready": lambda: True, "drive": drive})
