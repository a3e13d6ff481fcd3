"""A reader of Chroma directories that knows nothing of Flowbed: `python -m tests.support.plain_reader DIRECTORY NAME`.

It is a process, since a damaged directory would end the test's. It prints what the collection holds as JSON, with the
rows that a search for the vectors of some of them finds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import chromadb

ASKED = 500  # searches, or a few more
PAGE = 5_000  # rows: Chroma fails on the metadata of more than 32,766 at once


def read(directory: str, name: str) -> dict[str, Any]:
    """Return everything that a collection holds."""
    collection = chromadb.PersistentClient(directory).get_collection(name, embedding_function=None)
    count = collection.count()
    held: dict[str, list[Any]] = {"ids": [], "documents": [], "metadatas": [], "embeddings": []}
    while len(held["ids"]) < count:
        page: Any = collection.get(
            include=["documents", "metadatas", "embeddings"], limit=PAGE, offset=len(held["ids"])
        )
        if not page["ids"]:
            break
        for key, values in held.items():
            values.extend(page[key])
    step = max(1, len(held["ids"]) // ASKED)
    near = (
        collection.query(query_embeddings=held["embeddings"][::step], n_results=min(10, count), include=[])[
            "ids"
        ]
        if held["ids"]
        else []
    )
    asked = held["ids"][::step]
    vectors = [list(map(float, each)) for each in held.pop("embeddings")]
    return {**held, "vectors": vectors, "asked": asked, "near": near, "count": count}


if __name__ == "__main__":
    print(json.dumps(read(*sys.argv[1:3])))  # noqa: T201
