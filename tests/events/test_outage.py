"""A provider that goes down in the middle of a watch: sources go on, batch files wait, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.events.test_watch import watching

import flowbed
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon."""
    monkeypatch.setattr("flowbed.lanes.retries.WAIT_FIRST", 0.01)
    monkeypatch.setattr("flowbed.lanes.retries.WAIT_MOST", 0.02)
    monkeypatch.setattr("flowbed.events.watch.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("flowbed.events.watch.LONGEST_PAUSE", 0.2)


@pytest.mark.parametrize(
    "down",
    [Fault(kind="error", status=503), Fault(kind="error", status=401)],
    ids=["unavailable", "key refused"],
)
async def test_watch_provider_outage_loses_nothing_and_ends_without_a_command(
    tmp_path: Path, down: Fault
) -> None:
    """Files changed during the outage are fetched meanwhile, and embedded after it; there is no dead letter."""
    simulator = Simulator(OpenAI())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with running(simulator) as url:
        (tmp_path / "flowbed.toml").write_text(
            'model = "openai:text-embedding-3-small"\nvector_cache_mb = 0\n'
            f'[providers.openai]\nbase_url = "{url}/v1"\napi_key = "any"\n'
            '[watch]\nlist_every = "1s"\n'
            '[sources.one]\nkind = "files"\nlocation = "one"\n'
            '[sources.two]\nkind = "files"\nlocation = "two"\n'
        )
        (tmp_path / "one" / "before.txt").write_text("before the outage")
        async with await flowbed.aopen(tmp_path) as bed, watching(bed) as watched:
            await watched.until(lambda event: event["event"] == "embedded")
            simulator.order(down)
            for number in range(3):
                (tmp_path / "one" / f"{number}.txt").write_text(f"text {number} of one")
            await watched.until(lambda event: event["event"] == "failed" and event["what"] == "embedding")
            (tmp_path / "two" / "during.txt").write_text("during the outage")
            await watched.until(lambda event: event["event"] == "fetched" and event["source"] == "two")
            assert sum(event["chunks"] for event in watched.events if event["event"] == "embedded") == 1
            assert (await bed.status()).chunks["SUCCESS"] == 1
            simulator.order()

            async def all_embedded() -> bool:
                return (await bed.status()).chunks == {"SUCCESS": 5}

            await watched.eventually(all_embedded)
            assert await bed.dead_letters() == []
            found = {hit.document for hit in await bed.search("during the outage", limit=9)}
            assert {"before the outage", "during the outage", "text 0 of one", "text 2 of one"} <= found


async def test_watch_refused_text_does_not_keep_it_busy(tmp_path: Path) -> None:
    """A text that the provider refuses is a dead letter; it is not sent again and again, and others go on."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "flowbed.toml").write_text(
        'model = "seeded:32"\n[sources.docs]\nkind = "files"\nlocation = "docs"\n'
    )
    (tmp_path / "docs" / "bad.txt").write_text("POISON")
    (tmp_path / "docs" / "good.txt").write_text("wholesome")
    async with await flowbed.aopen(tmp_path) as bed, watching(bed) as watched:
        await watched.until(lambda event: event["event"] == "failed")
        assert [letter.subject for letter in await bed.dead_letters()] == ["docs#bad.txt#00000"]
        assert (await bed.embed_waiting()).waiting == 0
    failed = [event for event in watched.events if event["event"] == "failed"]
    assert len(failed) == 1
    assert failed[0]["fix"] == "flowbed dead-letters list"
