"""A new process that opens a store and answers one query; its arguments are SIDE STORE QUERIES PLACE."""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    """Answer, print the first id, and end."""
    side, store, queries, place = sys.argv[1:]
    query = np.load(queries)[int(place)]
    if side == "flowbed":
        import flowbed  # not installed on the other side

        with flowbed.open(store) as bed:
            print(bed.search(query, collection="rows", limit=10)[0].id)
    else:
        import chromadb

        collection = chromadb.PersistentClient(store).get_collection("rows", embedding_function=None)
        wanted = ["documents", "metadatas", "distances"]
        print(collection.query(query_embeddings=query[None], n_results=10, include=wanted)["ids"][0][0])


if __name__ == "__main__":
    main()
