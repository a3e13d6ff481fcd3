"""`flowbed serve` and the conformance suite."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.testing.conformance import CHECKS, Target, examine
from flowbed.testing.conformance.checks import inputs

if TYPE_CHECKING:
    from tests.clients.conftest import Served

    from flowbed.testing.conformance.records import Kind, Report

VERDICTS = ("passed", "failed", "skipped")
# Optional features of a server; each must be checked with at least one of them.
OPTIONAL = {
    "fewer_dimensions",
    "usage_of_openai",
    "wrong_key",
    "no_key",
    "wrong_key_elsewhere",
    "limited",
    "waited_for",
}
# The local model takes seconds of a processor; the order of many items is the server's work.
SLOW = {inputs.items_2048}


async def test_servers_pass_every_check(seeded: Served, local: Served, upstream: Served) -> None:
    """No check fails, only checks of optional features are skipped, and each check is passed by one server.

    Dimensions and the token counts of OpenAI's models are checked in front of its API, keys and limits elsewhere. Each
    of the SDK's two clients checks a server of its own.
    """

    async def examined(served: Served, kind: Kind) -> Report:
        target = Target(url=served.url, model=served.model, key=served.key, limited_key=served.limited_key)
        checks = [check for check in CHECKS if served is not local or check.run not in SLOW]
        return await examine(target, kinds=(kind,), checks=checks)

    # A suite waits for batches and limits most of its time.
    reports = await asyncio.gather(
        examined(seeded, "async"), examined(local, "sync"), examined(upstream, "async")
    )
    optional = {check.sentence for check in CHECKS if check.run.__name__ in OPTIONAL}
    for report in reports:
        found = {
            verdict: [each for each in report.outcomes if each.verdict == verdict] for verdict in VERDICTS
        }
        assert found["failed"] == []
        assert {each.check for each in found["skipped"]} <= optional
        assert len(found["passed"]) >= len(CHECKS) - len(OPTIONAL) - len(SLOW)
    passed = {each.check for report in reports for each in report.outcomes if each.verdict == "passed"}
    assert passed == {check.sentence for check in CHECKS}
