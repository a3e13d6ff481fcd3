"""The seeded embedder and the process that counts what it is sent."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.support.counting import CountingProcess

from flowbed.embedding import open_embedder
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.testing.embedder import Seeded, seeded

if TYPE_CHECKING:
    from pathlib import Path


def opened(tmp_path: Path, name: str = "64", **options: str) -> Seeded:
    embedder = open_embedder(f"seeded:{name}", cache=tmp_path, options=options)
    assert isinstance(embedder, Seeded)
    return embedder


async def test_seeded_equal_texts_get_equal_unit_vectors(tmp_path: Path) -> None:
    """Whatever the call and the purpose; another text gets a distant vector."""
    embedder = opened(tmp_path)
    documents = (await embedder.embed(["a", "b c", "", "a"], purpose="document")).vectors
    queries = await embedder.embed(["b c"], purpose="query")
    assert documents.shape == (4, 64)
    assert documents.dtype == np.float32
    assert np.allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-6)
    assert np.array_equal(documents[0], documents[3])
    assert np.array_equal(documents[1], queries.vectors[0])
    assert abs(documents[0] @ documents[1]) < 0.6
    assert queries.tokens == embedder.count("b c") == 2


def test_seeded_vectors_are_pinned_byte_for_byte() -> None:
    digest = hashlib.sha256(seeded(["one", "two", "ünïcödé"], 64).astype("<f4").tobytes()).hexdigest()
    assert digest == "68e6ab93890cd4d017ab4e91fc5c2096d52bc4cd3ffbfef344c2a8febffd35dd"


async def test_seeded_no_texts_returns_no_vectors(tmp_path: Path) -> None:
    assert (await opened(tmp_path).embed([], purpose="document")).vectors.shape == (0, 64)


@pytest.mark.parametrize(
    ("name", "options"), [("many", {}), ("0", {}), ("64", {"items": "x"}), ("64", {"colour": "red"})]
)
def test_seeded_invalid_model_is_misconfigured(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match=f"seeded:{name}"):
        opened(tmp_path, name, **options)


@pytest.mark.parametrize(("names_inputs", "inputs"), [("true", (1,)), ("false", ())])
async def test_seeded_poison_is_rejected_every_time(
    tmp_path: Path, names_inputs: str, inputs: tuple[int, ...]
) -> None:
    """The error names the text only if asked to."""
    embedder = opened(tmp_path, names_inputs=names_inputs)
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            await embedder.embed(["fine", "a POISON text"], purpose="document")
        assert caught.value.inputs == inputs
    await embedder.embed(["fine"], purpose="document")


async def test_seeded_flaky_text_fails_once(tmp_path: Path) -> None:
    embedder = opened(tmp_path)
    with pytest.raises(Transient):
        await embedder.embed(["fine", "FLAKY 1"], purpose="document")
    await embedder.embed(["fine", "FLAKY 1"], purpose="document")
    with pytest.raises(Transient):
        await embedder.embed(["FLAKY 2"], purpose="document")


async def test_seeded_call_with_too_many_texts_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="at most 2"):
        await opened(tmp_path, items="2").embed(["a", "b", "c"], purpose="document")


async def test_counting_process_counts_every_text_sent(tmp_path: Path) -> None:
    """Texts of failed calls count too, and the most at once."""
    with CountingProcess(delay=0.2) as process:
        embedder = opened(tmp_path, server=process.address)
        calls = (["a", "b"], ["b", "ü\n"], ["FLAKY"], ["POISON"])
        outcomes = await asyncio.gather(
            *(embedder.embed(texts, purpose="document") for texts in calls), return_exceptions=True
        )
        again = await opened(tmp_path, server=process.address).embed(["FLAKY"], purpose="document")
        counted = await asyncio.to_thread(process.report)
    assert isinstance(outcomes[2], Transient)
    assert isinstance(outcomes[3], Rejected)
    assert len(again.vectors) == 1
    assert counted.texts == {"a": 1, "b": 2, "ü\n": 1, "FLAKY": 2, "POISON": 1}
    assert 1 <= counted.max_in_flight <= 6
    assert [request.id for request in counted.requests] == [0, 1, 2, 3, 4]
    assert counted.unanswered == 0


def test_counting_process_killed_client_stays_counted(tmp_path: Path) -> None:
    """It reports that no client received the answer."""
    code = (
        "import asyncio, sys\nfrom flowbed.testing.embedder import Seeded\n"
        "asyncio.run(Seeded(8, server=sys.argv[1]).embed(['a', 'b'], purpose='document'))"
    )
    with CountingProcess(delay=1.0) as process:
        client = subprocess.Popen([sys.executable, "-c", code, process.address])
        while not process.report().requests:
            time.sleep(0.01)
        client.kill()
        client.wait()
        while (counted := process.report()).in_flight:
            time.sleep(0.01)
    assert counted.texts == {"a": 1, "b": 1}
    assert counted.unanswered == 2


async def test_seeded_without_its_server_is_transient(tmp_path: Path) -> None:
    with CountingProcess() as process:
        address = process.address
    with pytest.raises(Transient, match=address):
        await opened(tmp_path, server=address).embed(["a"], purpose="document")
