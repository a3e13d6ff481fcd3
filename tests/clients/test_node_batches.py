"""Files and batches through the official OpenAI SDK for Node."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.conftest import SMALL, Served

from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread
from flowbed.testing.simulators.providers.openai import Model

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWERED = "each line is answered once, as its request would be"


@pytest.fixture(scope="session")
def outcomes(in_node: Callable[..., Any]) -> Callable[[Served], Any]:
    """Return the verdicts of the checks in Node."""
    return partial(in_node, "batches.mjs")


def test_node_batches_each_server_passes_every_check(
    served: Served, outcomes: Callable[[Served], Any]
) -> None:
    """No check of files or batches fails."""
    found = outcomes(served)
    assert [each for each in found if each["verdict"] != "passed"] == []
    assert len(found) > 5


@pytest.mark.parametrize("kind", ["missing_lines", "doubled_lines"])
def test_node_batches_flawed_server_is_found(kind: Any, outcomes: Callable[[Served], Any]) -> None:
    """The checks find lines that are not answered, or twice."""
    faults = [Fault(kind=kind, text="rotated")]
    simulator = Simulator(OpenAI(models={SMALL: Model(dimensions=16)}), faults=faults)
    with running_thread(simulator) as url:
        found = outcomes(Served(url=f"{url}/v1", model=SMALL))
    failed = {each["check"] for each in found if each["verdict"] == "failed"}
    assert failed == {ANSWERED}
