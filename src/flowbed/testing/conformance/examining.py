"""Run every check against a server."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.testing.conformance import answers
from flowbed.testing.conformance.checks import (
    batch_lines,
    batches,
    encodings,
    files,
    inputs,
    keys,
    models,
    refusals,
    validation,
    vector_stores,
)
from flowbed.testing.conformance.client import Client
from flowbed.testing.conformance.jobs import tidy
from flowbed.testing.conformance.records import KINDS, Check, Failed, Outcome, Report, Skipped, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from flowbed.testing.conformance.records import Group, Kind, Target

MODULES: Mapping[Group, tuple[ModuleType, ...]] = {
    "embeddings": (inputs, encodings, answers, refusals, models, keys),
    "files": (files,),
    "batches": (batches, batch_lines, validation),
    "vector stores": (vector_stores,),
}
CHECKS: tuple[Check, ...] = tuple(
    Check(run, group) for group, modules in MODULES.items() for module in modules for run in module.CHECKS
)
# The paths that a server must offer for a group to be checked.
NEEDED: Mapping[Group, tuple[str, ...]] = {
    "embeddings": (),
    "files": ("/files",),
    "batches": ("/files", "/batches"),
    "vector stores": ("/files", "/vector_stores"),
}


async def examine(
    target: Target,
    *,
    kinds: Sequence[Kind] = KINDS,
    checks: Sequence[Check] = CHECKS,
    told: Callable[[Outcome], None] = lambda _: None,
) -> Report:
    """Run all checks with each kind of client, one after another; `told` is called after each.

    A group of checks is skipped if the server does not offer it.

    Raises:
        Misconfigured: there is no server, or it lists no model and none was named.
    """
    target = await _aimed(target)
    absent = await _absent(target, {check.group for check in checks})
    outcomes = []
    for kind in kinds:
        async with Client(kind, target) as client:
            for check in checks:
                if check.group not in absent:
                    outcomes.append(await _examined(check, client.for_next_check()))
                    told(outcomes[-1])
    return Report(url=target.url, model=target.model, outcomes=tuple(outcomes), absent=absent)


async def _examined(check: Check, client: Client) -> Outcome:
    began = time.perf_counter()
    verdict: Verdict = "passed"
    reason = ""
    try:
        await check.run(client)
        # A check that sent no request or examined no answer has proved nothing.
        if not client.tally.requirements or not client.tally.exchanges:
            verdict, reason = "failed", "the check examined nothing"
    except Failed as failed:
        verdict, reason = "failed", str(failed)
    except Skipped as skipped:
        verdict, reason = "skipped", str(skipped)
    except Exception as error:  # noqa: BLE001 - any error that an answer causes in the SDK or in a check
        verdict, reason = "failed", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    await tidy(client)
    return Outcome(
        check=check.sentence,
        group=check.group,
        client=client.kind,
        verdict=verdict,
        reason=reason,
        seconds=seconds,
    )


async def _absent(target: Target, groups: set[Group]) -> dict[Group, str]:
    """Return the groups that the server does not offer, judged by its answer to their lists."""
    found: dict[str, str] = {}
    async with Client("async", target) as client:
        for path in sorted({path for group in groups for path in NEEDED[group]}):
            try:
                exchange = await client.send("GET", f"{path}?limit=1")
            except Failed:  # the checks will report this
                continue
            if exchange.status in keys.NOT_OFFERED:
                found[path] = f"GET {path} answers {exchange.status}"
    return {
        group: found[path]
        for group in NEEDED
        if group in groups
        for path in reversed(NEEDED[group])
        if path in found
    }


async def _aimed(target: Target) -> Target:
    """Check that there is a server, and choose the model."""
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
