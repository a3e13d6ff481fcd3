"""Rows of Chroma directories read from their files, compared with what chromadb answers."""

from __future__ import annotations

import io
import json
import pickle
import random
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.publish.reading.child import COMPARED, FRAME, ROWS, Job, _read
from flowbed.publish.reading.directory import decode_page
from flowbed.publish.reading.stored import stored_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME, DIMENSIONS = "docs", 8


def opened(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))


def write_history(folder: Path, seed: int, *, space: str, synced: int) -> None:
    """Add, change and delete rows in random order; the graph is written every `synced` operations."""
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    alive: dict[str, None] = {}
    with closing(opened(folder)) as client:
        hnsw = {"space": space, "sync_threshold": synced, "batch_size": 2}
        rows = client.create_collection(NAME, configuration={"hnsw": hnsw}, embedding_function=None)
        other = client.create_collection("other", embedding_function=None)
        for turn in range(8):
            new = [f"row-{turn}-{number}" for number in range(chance.randint(5, 60))]
            rows.add(
                ids=new,
                embeddings=_vectors(numbers, len(new)),
                documents=[f"text of {each}" for each in new] if turn % 2 else None,
                metadatas=[{"n": n, "share": n / 3, "odd": bool(n % 2), "name": "x"} for n in range(len(new))]
                if turn % 3
                else None,
            )
            alive |= dict.fromkeys(new)
            changed = chance.sample(list(alive), 5)
            rows.update(ids=changed, embeddings=_vectors(numbers, len(changed)))
            gone = chance.sample(list(alive), 3)
            rows.delete(ids=gone)
            alive = {each: None for each in alive if each not in gone}
            other.add(ids=[f"other-{turn}"], embeddings=_vectors(numbers, 1))


def _vectors(numbers: np.random.Generator, count: int) -> NDArray[np.float32]:
    return (numbers.normal(size=(count, DIMENSIONS)) * 3).astype(np.float32)


def unit(vector: Any) -> NDArray[np.float32]:
    found = np.asarray(vector, np.float32)
    return found / np.linalg.norm(found)


@pytest.mark.parametrize(("seed", "space", "synced"), [(1, "l2", 2), (2, "ip", 70), (3, "cosine", 100)])
def test_stored_rows_of_any_history_are_those_that_chromadb_answers(
    tmp_path: Path, seed: int, space: str, synced: int
) -> None:
    """What the graph does not hold yet is asked of chromadb; only the graph of cosines has other lengths."""
    write_history(tmp_path, seed, space=space, synced=synced)
    with closing(opened(tmp_path)) as client:
        collection = client.get_collection(NAME, embedding_function=None)
        asked: list[str] = []

        def ask(ids: list[str]) -> NDArray[np.float32]:
            asked.extend(ids)
            found = collection.get(ids=ids, include=["embeddings"])
            of = dict(zip(found["ids"], found["embeddings"], strict=True))
            return np.array([of[each] for each in ids], np.float32)

        rows = stored_rows(tmp_path, str(collection.id), ask)
        assert rows is not None
        pages = list(rows.pages(50))
        known = collection.get(include=["embeddings", "documents", "metadatas"])
    assert [each for page in pages for each in page.ids] == known["ids"]
    assert [each for page in pages for each in page.documents] == known["documents"]
    assert [json.loads(each) for page in pages for each in page.metadata] == known["metadatas"]
    for vector, other in zip(
        np.concatenate([each.vectors for each in pages]), known["embeddings"], strict=True
    ):
        if space == "cosine":
            assert np.allclose(unit(vector), unit(other), atol=1e-6)
        else:
            assert np.array_equal(vector, np.asarray(other, np.float32))
    assert bool(asked) == (synced > 2)
    assert len(asked) < len(known["ids"])


@pytest.mark.parametrize("unit", [True, False])
def test_reader_asks_chromadb_only_for_a_sample_of_what_its_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unit: bool
) -> None:
    """Unless the lengths of the vectors of a graph of cosines count."""
    from chromadb import Collection

    write_history(tmp_path, 3, space="cosine", synced=2)
    get, answered = Collection.get, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal answered
        answer = get(*arguments, **options)
        answered += len(answer["ids"])
        return answer

    monkeypatch.setattr(Collection, "get", counted)
    frames = io.BytesIO()
    with closing(opened(tmp_path)) as client:
        count = client.get_collection(NAME, embedding_function=None).count()
        _read(client, Job(folder=str(tmp_path), collection=NAME, unit=unit, page=40), frames, tmp_path)
    assert count > 2 * COMPARED
    assert (answered <= 2 * COMPARED) == unit
    frames.seek(0)
    ids: list[str] = []
    while head := frames.read(FRAME.size):
        kind, length = FRAME.unpack(head)
        body = frames.read(length)
        ids += decode_page(body).ids if kind == ROWS else ()
    assert len(set(ids)) == len(ids) == count


def test_stored_rows_with_code_in_the_pickle_run_none_of_it(tmp_path: Path) -> None:
    """Archives of other producers are read too."""
    write_history(tmp_path, 1, space="l2", synced=2)
    files = list(tmp_path.glob("*/index_metadata.pickle"))
    with closing(opened(tmp_path)) as client:
        collection = str(client.get_collection(NAME, embedding_function=None).id)
    assert stored_rows(tmp_path, collection, _nothing) is not None
    target = tmp_path / "made by the pickle"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (target.touch, ())

    for file in files:
        file.write_bytes(pickle.dumps({"id_to_label": Hostile()}))
    assert stored_rows(tmp_path, collection, _nothing) is None
    assert not target.exists()


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "index_metadata.pickle"])
def test_stored_rows_of_a_cut_file_are_left_to_chromadb(tmp_path: Path, name: str) -> None:
    write_history(tmp_path, 1, space="l2", synced=2)
    files = list(tmp_path.glob(f"*/{name}"))
    with closing(opened(tmp_path)) as client:
        collection = str(client.get_collection(NAME, embedding_function=None).id)
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 8])
    assert stored_rows(tmp_path, collection, _nothing) is None


def _nothing(ids: list[str]) -> NDArray[np.float32]:
    raise AssertionError(ids)
