"""What a run cost is recorded once, whatever becomes of its collections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import flowbed
from flowbed import telemetry
from flowbed.testing.simulators import OpenAI, Simulator, running

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "text-embedding-3-small"
PRICE = 0.02 / 1e6  # of a token


def write(folder: Path, url: str, *collections: str) -> None:
    """Write a project with one source of three records for each collection."""
    lines = [f'model = "openai:{MODEL}"', "[providers.openai]", f'base_url = "{url}/v1"', 'api_key = "any"']
    for name in collections:
        lines += [f"[sources.{name}]", 'kind = "jsonl"', f'location = "{name}.jsonl"']
        records = [{"id": number, "text": f"{name}: text {number}"} for number in range(3)]
        folder.joinpath(f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    folder.joinpath("flowbed.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


async def test_spending_collection_unreadable_at_its_commit_is_recorded_once(tmp_path: Path) -> None:
    """The index of the first of two collections is damaged between its delta and its commit."""

    def damage(point: str, facts: dict[str, Any]) -> None:
        if point == telemetry.RUN_RECORDED and facts["collection"] == "a":
            for file in tmp_path.glob(".flowbed/store/a/index/*/_versions/*"):
                file.write_bytes(b"\xff" * file.stat().st_size)

    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        write(tmp_path, url, "a", "b")
        stop = telemetry.listen(damage)
        try:
            async with await flowbed.aopen(tmp_path) as bed:
                report = await bed.run()
                spent = await bed.spending(by="document")
        finally:
            stop()
    billed = simulator.account.totals().billed
    assert "collection a" in [each.subject for each in report.failures]
    assert report.versions.keys() == {"b"}
    assert report.tokens == billed
    assert report.cost_usd == pytest.approx(billed * PRICE)
    assert sum(each.billed for each in spent) == billed
    assert sum(each.cost_usd for each in spent) == pytest.approx(billed * PRICE)
    assert len(spent) == 6
