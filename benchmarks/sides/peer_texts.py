"""sentence-transformers and chromadb, as their users combine them: texts in, a collection to query out."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")


from benchmarks.sides.serve import seconds, serve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

BOX = ("x", "y", "width", "height")
FIELDS = ("merchant_name", "date", "total", "address")


class Model:
    """The model, with its best batch size."""

    def __init__(self, folder: str) -> None:
        """Load the weights in `folder`."""
        from sentence_transformers import SentenceTransformer  # loading it is not timed

        self._model = SentenceTransformer(folder, device="cpu")
        self.encode(["the model is loaded now"], batch_size=32)

    def encode(self, texts: Sequence[str], *, batch_size: int) -> NDArray[np.float32]:
        """Embed texts: float32 of shape (texts, 384)."""
        return self._model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )


@cache
def model(folder: str) -> Model:
    """Load a model once."""
    return Model(folder)


def load(folder: str) -> float:
    """Load the model, and return how long it took."""
    import chromadb  # noqa: F401 - importing it is not timed

    return seconds(lambda: model(folder))


def encode(folder: str, texts: str, batch_size: int) -> float:
    """Time embedding the texts in a JSON file."""
    inputs = json.loads(Path(texts).read_text("utf-8"))
    return seconds(lambda: model(folder).encode(inputs, batch_size=batch_size))


def receipts(
    folder: str, file: str, store: str, *, batch_size: int, add_size: int, dedup: bool
) -> dict[str, Any]:
    """Take receipts from the file to answers: read, embed, add, and query through a new client."""
    import chromadb  # imported by load

    began = time.perf_counter()
    rows = list(_rows(Path(file)))
    texts = [text for _, _, text, _ in rows]
    loaded = model(folder)
    read = time.perf_counter()
    if dedup:
        distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        unique = loaded.encode(list(distinct), batch_size=batch_size)
        vectors = unique[[distinct[text] for text in texts]]
    else:
        vectors = loaded.encode(texts, batch_size=batch_size)
    embedded = time.perf_counter()
    client = chromadb.PersistentClient(store)
    for name in ("lines", "words"):
        collection = client.create_collection(
            name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
        mine = [at for at, row in enumerate(rows) if row[0] == name]
        for start in range(0, len(mine), add_size):
            part = mine[start : start + add_size]
            collection.add(
                ids=[rows[at][1] for at in part],
                embeddings=vectors[part],
                documents=[rows[at][2] for at in part],
                metadatas=[rows[at][3] for at in part],
            )
    client.close()
    added = time.perf_counter()
    reader = chromadb.PersistentClient(store)
    for name in ("lines", "words"):
        last = next(at for at in range(len(rows) - 1, -1, -1) if rows[at][0] == name)
        there = reader.get_collection(name, embedding_function=None)
        answer = there.query(query_embeddings=vectors[last : last + 1], n_results=1, include=["documents"])
        # With many equal texts its graph does not always lead to the nearest, so any answer and the stored row will do.
        if not answer["ids"][0] or there.get(ids=[rows[last][1]])["documents"] != [rows[last][2]]:
            raise LookupError(f"{rows[last][2]!r} is not found: {answer}")
    reader.close()
    done = time.perf_counter()
    return {
        "seconds": done - began,
        "rows": len(rows),
        "distinct": len(set(texts)),
        "parts": {
            "read": read - began,
            "embed": embedded - read,
            "add": added - embedded,
            "first query": done - added,
        },
    }


def _rows(file: Path) -> Any:  # rows of (collection, id, text, metadata)
    """Make the same rows as Flowbed does of receipts: the same ids, texts and metadata."""
    with file.open(encoding="utf-8") as lines:
        for receipt in map(json.loads, lines):
            shared = {name: receipt[name] for name in FIELDS if receipt.get(name)}
            shared |= {"source": "receipts", "image_id": receipt["image_id"]}
            shared |= {"receipt_id": receipt["receipt_id"]}
            prefix = f"IMAGE#{receipt['image_id']}#RECEIPT#{receipt['receipt_id']:05d}"
            texts = [line["text"] for line in receipt["lines"]]
            for place, line in enumerate(receipt["lines"]):
                key = f"{prefix}#LINE#{line['line_id']:05d}"
                about = {**shared, "line_id": line["line_id"], **_box(line), **_around(texts, place)}
                yield "lines", key, line["text"], about
                words = [word["text"] for word in line["words"]]
                for at, word in enumerate(line["words"]):
                    of_word = {**shared, "line_id": line["line_id"], "word_id": word["word_id"]}
                    of_word |= {**_box(word), **_around(words, at)}
                    yield "words", f"{key}#WORD#{word['word_id']:05d}", word["text"], of_word


def _box(item: Mapping[str, Any]) -> dict[str, Any]:
    return {side: item["bounding_box"][side] for side in BOX}


def _around(texts: Sequence[str], place: int) -> dict[str, Any]:
    around = {}
    if place:
        around["previous"] = texts[place - 1]
    if place + 1 < len(texts):
        around["next"] = texts[place + 1]
    return around


if __name__ == "__main__":
    serve({"load": load, "encode": encode, "receipts": receipts})
