"""The server that flaws are put into: the simulator of OpenAI's API, with keys, one of them limited."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.testing.conformance.flaws import Flawed, Limiting

from flowbed.testing.conformance import CHECKS, GROUPS, Target, examine
from flowbed.testing.conformance.checks import batches, files, inputs, refusals, validation
from flowbed.testing.conformance.jobs import SECOND
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running
from flowbed.testing.simulators.providers.openai import Model

if TYPE_CHECKING:
    from collections.abc import Collection

NAME, KEY, LIMITED = "text-embedding-3-small", "sk-good", "sk-limited"
WIDTH = 16
FAST = 20.0  # seconds of the server's clock in a second: checks wait until it shows another second
SECONDS = 0.04 * FAST  # of a batch: long enough to be seen in progress
STILL = 0.003  # seconds within which two readings of the clock belong to one request
PATIENCE = 30.0  # seconds after which such a short batch is given up
# The batch that a check cancels does not end before.
STUCK = Fault(kind="stuck", text=f"number {batches.MANY - 1}", delay=0.05 * FAST)
MODELS = {NAME: Model(dimensions=WIDTH)}
# They take longer than all others together, and run only for flaws that they are about.
LONG = {
    files.listed,
    batches.listed,
    batches.cancelled,
    validation.too_many,
    inputs.items_2048,
    inputs.tokens_8192,
    refusals.items_2049,
    refusals.tokens_8193,
    refusals.tokens_300000,
}


class Steady:
    """A fast clock that stands still during one request.

    The simulator reads its clock twice for each: a batch that ended in between would be completed without its output.
    """

    def __init__(self) -> None:
        self._looked, self._told = 0.0, 0.0
        self._began, self._since = time.time(), time.monotonic()

    def __call__(self) -> float:
        looked, self._looked = self._looked, time.monotonic()
        if self._looked - looked > STILL:
            self._told = self._began + (self._looked - self._since) * FAST
        return self._told


def simulator(*faults: Fault, vectors: Any = None, **more: Any) -> Simulator:
    """Make the simulator with other faults, vectors or options."""
    said = {"models": MODELS, "keys": (KEY, LIMITED), "batch_seconds": SECONDS, **more}
    return Simulator(
        OpenAI(**said), faults=[STUCK, *faults], now=Steady(), **({"vectors": vectors} if vectors else {})
    )


def server(flaw: Any) -> Any:
    """Make a server with one flaw, or none: a fault, a simulator, or a layer between it and the client."""
    if isinstance(flaw, Limiting):
        return Flawed(simulator(), flaw)
    if isinstance(flaw, Fault):
        flaw = simulator(flaw)
    if isinstance(flaw, Simulator):
        return Flawed(flaw, Limiting(LIMITED))
    limited = Flawed(simulator(), Limiting(LIMITED))
    return Flawed(limited, flaw) if flaw else limited


async def examined(
    flaw: Any, *, groups: Collection[str] = GROUPS, runs: Collection[Any] | None = None
) -> dict[Any, str]:
    """Examine a server with this flaw, and return the verdict of each check of the groups, or of those in `runs`."""
    # The simulator has no vector stores.
    of_group = [check for check in CHECKS if check.group in groups and check.group != "vector stores"]
    checks = [check for check in of_group if runs is None or check.run in runs]
    with pytest.MonkeyPatch.context() as patch:
        for module in (files, batches):
            patch.setattr(module, "SECOND", SECOND / FAST)
        async with running(server(flaw)) as url:
            target = Target(url=f"{url}/v1", key=KEY, limited_key=LIMITED, batch_timeout=PATIENCE)
            report = await examine(target, kinds=("async",), checks=checks)
    return {check.run: outcome.verdict for check, outcome in zip(checks, report.outcomes, strict=True)}
