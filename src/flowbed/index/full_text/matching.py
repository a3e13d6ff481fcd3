"""The rows of one version whose text has words of a query, ranked by BM25.

A full-text index finds them; Lance itself reads the rows that are not indexed yet. Where there is no index, as in a
small collection or an old version, the texts are indexed in memory for this search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from flowbed.errors import Rejected
from flowbed.index.full_text import COLUMN, full_text
from flowbed.index.native import PublicDataset
from flowbed.index.search.hits import by_score
from flowbed.index.search.nearest import EVERY
from flowbed.index.search.row_cache import SHOWN, shown_of
from flowbed.records import Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from flowbed.index.active_space import Live
    from flowbed.index.native import Dataset
    from flowbed.index.search.row_cache import View

# Indexing the texts of this many rows in memory takes a second of CPU and some 30 MB.
IN_MEMORY = 20_000
LIVING = "deleted = false"


class NotIndexed(Rejected):
    """A collection is too large to be searched by text without a full-text index, and has none."""


def find_words(view: View, live: Live, text: str, condition: str, limit: int) -> list[Hit]:
    """Find the rows whose text has a word of `text`, best first, by their BM25 score.

    Raises:
        NotIndexed: the version has many rows and no full-text index.
    """
    index = full_text(view.dataset)
    if index is not None:
        row_ids, scores = _indexed(view.dataset, index.fragments, text, condition, limit)
    else:
        row_ids, scores = _in_memory(view, live, text, condition, limit)
    return _hits(view, live, row_ids, scores)


def _indexed(
    dataset: Dataset, fragments: frozenset[int], text: str, condition: str, limit: int
) -> tuple[list[int], list[float]]:
    found = _matches(
        dataset,
        text,
        limit=limit,
        # Tombstones have no text, so no search finds them and they need no filter.
        filter=None if condition == EVERY else f"{LIVING} AND {condition}",
        prefilter=True,
        fast_search=fragments >= {each.id() for each in dataset.get_fragments()},
    )
    return found["_rowid"].to_pylist(), found["_score"].to_pylist()


def _in_memory(
    view: View, live: Live, text: str, condition: str, limit: int
) -> tuple[list[int], list[float]]:
    if view.texts is None:
        view.texts = _read_texts(view.dataset, live)
    if view.texts is None:
        return [], []
    found = _matches(view.texts, text, columns=["row", "_score"])
    rows, scores = found["row"].to_numpy(), found["_score"].to_numpy()
    if condition != EVERY:
        scanner = view.dataset.scanner(columns=[], filter=f"{LIVING} AND {condition}", with_row_id=True)
        fits = np.isin(rows, scanner.to_pyarrow().read_all()["_rowid"].to_numpy())
        rows, scores = rows[fits], scores[fits]
    best = np.argsort(-scores, kind="stable")[:limit]
    return rows[best].tolist(), scores[best].tolist()


def _matches(dataset: Dataset, text: str, *, columns: Sequence[str] = ("_score",), **how: Any) -> pa.Table:
    query = {"query": text, "columns": [COLUMN]}
    scanner = dataset.scanner(columns=list(columns), full_text_query=query, with_row_id=True, **how)
    return scanner.to_pyarrow().read_all()


def _read_texts(dataset: Dataset, live: Live) -> Dataset | None:
    """Index the texts of a version in memory, as a dataset of `row` and `document`; None if it has none.

    Raises:
        NotIndexed: it has too many rows.
    """
    rows = dataset.count_rows()
    if rows > IN_MEMORY:
        raise NotIndexed(
            f"version {dataset.version()} of {live.collection} has {rows:,} rows and no full-text index, which a search"
            f" by text needs from {IN_MEMORY:,} rows on: `flowbed compact {live.collection} --full-text` builds it for"
            " the newest version, and later runs extend it"
        )
    import lance  # only to write; most searches do without it

    from flowbed.index.full_text import build_full_text

    scanner = dataset.scanner(columns=[COLUMN], filter=LIVING, with_row_id=True)
    found = scanner.to_pyarrow().read_all().rename_columns({"_rowid": "row"})
    if not found.num_rows:
        return None
    written = lance.write_dataset(found, "memory://texts")
    build_full_text(written)
    return PublicDataset(written)


def _hits(view: View, live: Live, row_ids: Sequence[int], scores: Sequence[float]) -> list[Hit]:
    if not row_ids:
        return []
    rows = view.rows.find(row_ids)
    if rows is not None:
        shown = shown_of(rows)
    else:
        taken = view.dataset.take_rows(list(row_ids), list(SHOWN))
        shown = [taken[name].to_pylist() for name in SHOWN]
    hits = [
        Hit(
            id=name,
            score=score,
            document=document,
            metadata=orjson.loads(metadata),
            collection=live.collection,
        )
        for name, document, metadata, score in zip(*shown, scores, strict=True)
    ]
    return by_score(hits)
