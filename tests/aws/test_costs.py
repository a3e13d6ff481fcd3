"""What a volume costs, lane by lane, as the command says it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowbed.cli.app import run

if TYPE_CHECKING:
    import pytest


def test_cost_of_a_volume_is_the_sum_of_its_parts_on_each_lane(capsys: pytest.CaptureFixture[str]) -> None:
    """The batch lane costs half of the embeddings and hardly any functions; moving whole snapshots costs more."""
    assert run(["aws", "cost", "--lines", "1000000", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    parts = {lane: {each["part"]: each["usd"] for each in said["lanes"][lane]} for lane in said["lanes"]}
    assert {lane: round(sum(each.values()), 6) for lane, each in parts.items()} == {
        lane: round(usd, 6) for lane, usd in said["usd"].items()
    }
    realtime, batch = parts["realtime"], parts["batch"]
    assert (round(realtime["embeddings"], 6), round(batch["embeddings"], 6)) == (0.24, 0.12)
    assert batch["functions"] < realtime["functions"] / 10
    other = {each["part"]: each["usd"] for each in said["whole_snapshots"]}
    assert other["ledger"] + other["functions"] > max(said["usd"].values())


def test_cost_grows_with_the_volume(capsys: pytest.CaptureFixture[str]) -> None:
    usd = []
    for lines in ("10000", "1000000"):
        assert run(["aws", "cost", "--lines", lines, "--json"]) == 0
        usd.append(json.loads(capsys.readouterr().out)["usd"])
    assert all(50 < usd[1][lane] / usd[0][lane] <= 101 for lane in ("realtime", "batch"))
