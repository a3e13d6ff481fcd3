"""A model that runs in processes of its own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import psutil

from flowbed.bed import aopen
from flowbed.embedding.supervised import Supervised
from flowbed.records.serving import Caller, EmbeddingsRequest
from flowbed.services.service import open_service
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from pathlib import Path


def kill(model: Supervised) -> None:
    """Kill the model's processes, as nothing of this program would."""
    for child in psutil.Process().children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    deadline = time.monotonic() + 30
    while model.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.alive() == 0


async def test_a_killed_process_costs_no_answer(tmp_path: Path) -> None:
    """Requests are answered rightly before and after the model's process is killed, and the server stays ready."""
    (tmp_path / "flowbed.toml").write_text('model = "seeded:8"\n[serve]\nmodel_processes = 1\n')
    async with await aopen(tmp_path) as bed, open_service(bed) as service:
        model = service.models.named("seeded:8")
        assert isinstance(model.first, Supervised)
        for number in range(2):
            answered = await service.embeddings.answer(
                EmbeddingsRequest(model="seeded:8", input=f"text {number}"), Caller()
            )
            assert np.array_equal(answered.vectors, seeded([f"text {number}"], 8))
            await asyncio.to_thread(kill, model.first)
        assert {each.state for each in await service.ready()} == {"ok"}
        assert model.first.alive() == 1
