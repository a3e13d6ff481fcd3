"""Simulators in their own processes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import openai
import pytest

from flowbed.errors import Misconfigured
from flowbed.testing.simulators import Fault, Limits, SimulatorProcess

if TYPE_CHECKING:
    from tests.testing.simulators.conftest import Post

SAID = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 4}


async def test_process_takes_faults_and_limits_and_keeps_an_account(post: Post) -> None:
    with SimulatorProcess(
        "openai", faults=[Fault(kind="quota", calls=(1,))], limits=Limits(requests=4)
    ) as simulator:
        address = f"{simulator.url}/v1/embeddings"
        first = [(await post(address, SAID)).status for _ in range(2)]
        await asyncio.to_thread(simulator.order, Fault(kind="error", calls=(2,), status=503))
        then = [(await post(address, SAID)).status for _ in range(5)]
        totals = await asyncio.to_thread(simulator.totals)
        await asyncio.to_thread(simulator.forget)
        forgotten = await asyncio.to_thread(simulator.totals)
    assert first == [429, 200]
    assert then == [200, 503, 200, 200, 429]
    assert (totals.requests, totals.texts, totals.billed) == (7, 14, 8)
    assert totals.statuses == {200: 4, 429: 2, 503: 1}
    assert forgotten.requests == 0


async def test_process_clock_advances_jobs(post: Post) -> None:
    """Repeated billing is reported."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": SAID}
    with SimulatorProcess("openai", options={"batch_seconds": 3600}) as simulator:
        async with openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="key") as client:
            written = ("input.jsonl", json.dumps(line).encode())
            file = await client.files.create(file=written, purpose="batch")
            job = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            await post(f"{simulator.url}/v1/embeddings", SAID)
            before = await asyncio.to_thread(simulator.totals)
            await asyncio.to_thread(simulator.advance, 3600)
            assert (await client.batches.retrieve(job.id)).status == "completed"
        after = await asyncio.to_thread(simulator.totals)
        assert (before.billed, after.billed) == (2, 4)
        assert await asyncio.to_thread(simulator.billed_again) == {"a": 1, "b": 1}
        assert (await post(f"{simulator.url}/_simulator/time", {"hours": 1})).status == 400


def test_process_that_cannot_start_raises() -> None:
    with pytest.raises(Misconfigured, match="did not start"), SimulatorProcess("nobody"):
        pass
