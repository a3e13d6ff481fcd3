"""Models of remote providers, which are simulated."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.support.servers.redis import RedisServer

from flowbed.bed import aopen
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult
from flowbed.services.service import open_service
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running, vector_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from typing import NoReturn

    from flowbed.services.service import Service

MODEL = "text-embedding-3-small"
DIMENSIONS = 1_536
SETTINGS = """
model = "seeded:8"
vector_cache_mb = {disk}
[providers.openai]
base_url = "{first}/v1"
api_key = "sk-first"
[providers.spare]
vendor = "compatible"
base_url = "{second}/v1"
api_key = "sk-second"
[serve]
models = ["openai:text-embedding-3-small", "openai:text-embedding-3-large"]
fallback = {{ "text-embedding-3-small" = ["spare:text-embedding-3-small"] }}
dimensions = "reduce"
redis = "{redis}"
"""


@pytest.fixture
async def first() -> AsyncIterator[tuple[Simulator, str]]:
    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        yield simulator, url


@pytest.fixture
async def second() -> AsyncIterator[tuple[Simulator, str]]:
    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        yield simulator, url


@pytest.fixture
def redis(lacking: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    try:
        server = RedisServer()
    except Misconfigured as error:
        lacking(str(error))
    with server:
        yield server


@pytest.fixture
def served(tmp_path: Path, first: tuple[Simulator, str], second: tuple[Simulator, str]) -> Served:
    return Served(tmp_path, first, second)


class Served:
    """A project in a folder, with simulated providers."""

    def __init__(self, folder: Path, first: tuple[Simulator, str], second: tuple[Simulator, str]) -> None:
        self.folder = folder
        self.first, self._first_url = first
        self.second, self._second_url = second

    @asynccontextmanager
    async def open(self, *, redis: str = "", disk: int = 0, folder: str = "a") -> AsyncIterator[Service]:
        """Open the project as one server does."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        text = SETTINGS.format(first=self._first_url, second=self._second_url, redis=redis, disk=disk)
        (place / "flowbed.toml").write_text(text)
        async with await aopen(place) as bed, open_service(bed) as service:
            yield service


async def ask(service: Service, given: str | list[str] | list[int], **fields: Any) -> EmbeddingsResult:
    request = EmbeddingsRequest(**{"model": MODEL, "input": given, **fields})
    return await service.embeddings.answer(request, Caller())


def expected(*texts: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the vectors of texts."""
    return np.stack([vector_of(MODEL, text, DIMENSIONS) for text in texts])


async def test_provider_answer_is_cached_with_usage_and_name(served: Served) -> None:
    async with served.open() as service:
        answered = await ask(service, ["hello world", "How are you", "hello world"])
        assert np.allclose(answered.vectors, expected("hello world", "How are you", "hello world"), atol=1e-6)
        assert (answered.tokens, answered.provider, answered.model) == (2 + 3 + 2, "openai", MODEL)
        again = await ask(service, [15339, 1917])
        assert (again.tokens, again.cached) == (2, 1)
        assert served.first.account.totals().texts == 2
        health = {each.name: each.state for each in await service.ready()}
        assert health == {MODEL: "ok", "text-embedding-3-large": "ok", "ledger": "ok"}


async def test_fewer_dimensions_equal_those_of_the_provider(served: Served) -> None:
    async with served.open() as service:
        answered = await ask(service, "hello world", dimensions=256)
        assert np.allclose(answered.vectors[0], vector_of(MODEL, "hello world", 256), atol=1e-6)


async def test_fallback_answers_with_the_same_vectors_whatever_the_failure(served: Served) -> None:
    kinds = ("error", "rate_limited", "quota", "truncated", "cut", "wrong_dimension", "missing", "garbled")
    async with served.open() as service:
        for number, kind in enumerate(kinds):
            served.first.order(Fault(kind=kind))  # type: ignore[arg-type]
            service.models.reset(f"openai:{MODEL}")
            answered = await ask(service, f"text {number}")
            assert answered.provider == "spare", kind
            assert np.allclose(answered.vectors, expected(f"text {number}"), atol=1e-6)


async def test_account_is_shared_by_models_of_one_key(served: Served) -> None:
    """Its name does not reveal the key."""
    async with served.open() as service:
        account = service.bed.embedder_stack().account
        assert account(f"openai:{MODEL}") == account("openai:text-embedding-3-large")
        assert account(f"openai:{MODEL}") != account(f"spare:{MODEL}")
        assert "sk-" not in account(f"openai:{MODEL}")


async def test_serving_shares_open_models_with_the_project(served: Served) -> None:
    async with served.open() as service:
        assert service.models.named(MODEL).first is await service.bed.open_model(f"openai:{MODEL}")


async def test_provider_rejection_is_passed_on(served: Served) -> None:
    served.first.order(Fault(kind="error", status=400))
    async with served.open() as service:
        with pytest.raises(Rejected):
            await ask(service, "hello world")
    assert served.second.account.totals().requests == 0


async def test_all_providers_fail_says_when_to_retry_and_names_no_key(served: Served) -> None:
    served.first.order(Fault(kind="rate_limited", retry_after=7))
    served.second.order(Fault(kind="error", status=503))
    async with served.open() as service:
        with pytest.raises(Transient) as caught:
            await ask(service, "hello world")
        assert caught.value.retry_after == 7
        assert "sk-" not in str(caught.value)


async def test_redis_shares_vectors_between_servers(served: Served, redis: RedisServer) -> None:
    """Without Redis each server continues alone, degraded."""
    async with served.open(redis=redis.url) as one:
        assert (await ask(one, "hello world")).cached == 0
    async with served.open(redis=redis.url, folder="b") as other:
        answered = await ask(other, "hello world")
        assert (answered.cached, answered.tokens) == (1, 2)
        assert np.allclose(answered.vectors, expected("hello world"), atol=1e-6)
        assert served.first.account.totals().texts == 1
        redis.stop()
        assert (await ask(other, "How are you")).tokens == 3
        health = {each.name: each.state for each in await other.ready()}
        assert health["redis"] == "degraded"


async def test_disk_cache_outlives_the_server_with_usage(served: Served) -> None:
    async with served.open(disk=10) as service:
        await ask(service, "hello world")
    async with served.open(disk=10) as service:
        answered = await ask(service, "hello world")
        assert (answered.cached, answered.tokens) == (1, 2)


async def test_requests_failing_providers_get_right_vectors_or_errors(
    served: Served,
) -> None:
    faults = [
        Fault(kind=kind, probability=0.05, delay=0.01)
        for kind in ("error", "truncated", "cut", "wrong_order", "wrong_dimension", "missing", "slow")
    ]
    served.first.order(*faults, seed=1)
    served.second.order(*faults, seed=2)
    requested = [[f"text {number % 40}", f"text {number % 30}", f"own {number}"] for number in range(300)]
    async with served.open() as service:
        answers = await asyncio.gather(*(ask(service, texts) for texts in requested), return_exceptions=True)
    right = 0
    for texts, answered in zip(requested, answers, strict=True):
        if isinstance(answered, EmbeddingsResult):
            assert np.allclose(answered.vectors, expected(*texts), atol=1e-6)
            right += 1
        else:
            assert isinstance(answered, Transient | Misconfigured)
    assert right > len(requested) / 2
    for simulator in (served.first, served.second):
        assert simulator.account.totals().twice_at_once == 0
