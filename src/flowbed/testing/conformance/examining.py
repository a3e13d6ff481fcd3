"""Run every check against a server."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.testing.conformance import answers, encodings, inputs, keys, models, refusals
from flowbed.testing.conformance.client import Client
from flowbed.testing.conformance.records import KINDS, Check, Failed, Outcome, Report, Skipped, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.testing.conformance.records import Kind, Target

CHECKS: tuple[Check, ...] = tuple(
    Check(run) for module in (inputs, encodings, answers, refusals, models, keys) for run in module.CHECKS
)


async def examine(
    target: Target,
    *,
    kinds: Sequence[Kind] = KINDS,
    checks: Sequence[Check] = CHECKS,
    told: Callable[[Outcome], None] = lambda _: None,
) -> Report:
    """Run all checks with each kind of client, one after another; `told` is called after each.

    Raises:
        Misconfigured: there is no server, or it lists no model and none was named.

    """
    target = await _aimed(target)
    outcomes = []
    for kind in kinds:
        async with Client(kind, target) as client:
            for check in checks:
                outcomes.append(await _examined(check, client.anew()))
                told(outcomes[-1])
    return Report(url=target.url, model=target.model, outcomes=tuple(outcomes))


async def _examined(check: Check, client: Client) -> Outcome:
    began = time.perf_counter()
    verdict: Verdict = "passed"
    reason = ""
    try:
        await check.run(client)
        # What has asked nothing, or looked at no answer, has found nothing out.
        if not client.tally.requirements or not client.tally.exchanges:
            verdict, reason = "failed", "nothing was examined"
    except Failed as failed:
        verdict, reason = "failed", str(failed)
    except Skipped as skipped:
        verdict, reason = "skipped", str(skipped)
    except Exception as error:  # noqa: BLE001 - whatever a server makes the SDK or a check stumble over
        verdict, reason = "failed", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    return Outcome(check=check.sentence, client=client.kind, verdict=verdict, reason=reason, seconds=seconds)


async def _aimed(target: Target) -> Target:
    """Find out that there is a server, and which model to ask for."""
    async with Client("async", target) as client:
        try:
            exchange = await client.send("GET", "/models")
        except Failed as failed:
            raise Misconfigured(f"{target.url} does not answer: {failed}") from failed
    if target.model:
        return target
    try:
        names = [str(row.get("id", "")) for row in exchange.rows]
    except Failed as failed:
        raise Misconfigured(f"{target.url} lists no models ({failed}); name one with --model") from failed
    named = [name for name in names if "embed" in name.lower()] or names
    if not named:
        raise Misconfigured(f"{target.url} lists no models; name one with --model")
    return replace(target, model=named[0])
