"""A reader of Chroma directories that knows nothing of Flowbed: `python -m tests.support.plain_reader DIRECTORY NAME`.

It is a process, since a damaged directory would end the test's. It prints what the collection holds as JSON, with the
nearest rows of the first ones.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import chromadb

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
    near = (
        collection.query(query_embeddings=held["embeddings"][:20], n_results=min(10, count))["ids"]
        if held["ids"]
        else []
    )
    vectors = [list(map(float, each)) for each in held.pop("embeddings")]
    return {**held, "vectors": vectors, "near": near, "count": count}


if __name__ == "__main__":
    print(json.dumps(read(*sys.argv[1:3])))  # noqa: T201
