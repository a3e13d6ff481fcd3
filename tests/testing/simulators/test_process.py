"""Simulators in processes of their own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.testing.simulators import Fault, Limits, SimulatorProcess

if TYPE_CHECKING:
    from tests.testing.simulators.conftest import Post

SAID = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 4}


async def test_a_process_is_ordered_and_told(post: Post) -> None:
    """A simulator in a process has the faults and limits it was started with, takes others, and keeps its account."""
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


def test_a_process_that_cannot_start_says_so() -> None:
    """Where no simulator can start, that is said at once."""
    with pytest.raises(Misconfigured, match="did not start"), SimulatorProcess("nobody"):
        pass
