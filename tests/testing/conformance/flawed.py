"""The server that flaws are put into: the simulator of OpenAI's API, with keys, one of them limited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.testing.conformance.flaws import Flawed, Limiting

from flowbed.testing.conformance import CHECKS, Target, examine, inputs, refusals
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running
from flowbed.testing.simulators.openai import Model

if TYPE_CHECKING:
    from collections.abc import Collection

NAME, KEY, LIMITED = "text-embedding-3-small", "sk-good", "sk-limited"
WIDTH = 16
MODELS = {NAME: Model(dimensions=WIDTH)}
# They take longer than all others together, and are left out where they have nothing to find.
LONG = {
    inputs.items_2048,
    inputs.tokens_8192,
    refusals.items_2049,
    refusals.tokens_8193,
    refusals.tokens_300000,
}


def simulator(*faults: Fault, vectors: Any = None, **more: Any) -> Simulator:
    """Make the simulator, with something else about it."""
    said = {"models": MODELS, "keys": (KEY, LIMITED), **more}
    return Simulator(OpenAI(**said), faults=faults, **({"vectors": vectors} if vectors else {}))


def server(flaw: Any) -> Any:
    """Make a server that has one flaw, or none: a fault, a simulator, or what stands between it and the client."""
    if isinstance(flaw, Limiting):
        return Flawed(simulator(), flaw)
    if isinstance(flaw, Fault):
        flaw = simulator(flaw)
    if isinstance(flaw, Simulator):
        return Flawed(flaw, Limiting(LIMITED))
    limited = Flawed(simulator(), Limiting(LIMITED))
    return Flawed(limited, flaw) if flaw else limited


async def examined(flaw: Any, *, without: Collection[Any] = ()) -> dict[Any, str]:
    """Examine such a server, and tell the verdict of each check, leaving some out."""
    checks = [check for check in CHECKS if check.run not in without]
    async with running(server(flaw)) as url:
        target = Target(url=f"{url}/v1", key=KEY, limited_key=LIMITED)
        report = await examine(target, kinds=("async",), checks=checks)
    return {check.run: outcome.verdict for check, outcome in zip(checks, report.outcomes, strict=True)}


async def require_found(flaw: Any, wanted: set[Any]) -> None:
    """Require that the checks that are about a flaw fail, and that all others pass."""
    verdicts = await examined(flaw, without=LONG - wanted)
    assert {check for check, verdict in verdicts.items() if verdict == "failed"} == wanted
    assert {verdict for check, verdict in verdicts.items() if check not in wanted} == {"passed"}
