"""The index as the last tier of the vector cache: a text that it holds is never paid for twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowbed.index.datasets import Unexplained, blocking, damaged
from flowbed.index.native import row_ids_in
from flowbed.index.search.row_cache import vectors_in
from flowbed.index.sorted_keys import positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lance
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.records import Space


# Providers round normalized vectors, some of them to half precision.
LENGTH_TOLERANCE = 1e-3
# Sorted pieces that a lookup searches before they are merged into one.
PIECES = 16


@dataclass(frozen=True)
class _Piece:
    """The first 8 bytes of some text hashes, sorted, and the Lance row id of each."""

    prefixes: NDArray[np.uint64]
    rows: NDArray[np.uint64]

    @classmethod
    def of(cls, prefixes: Sequence[NDArray[np.uint64]], rows: Sequence[NDArray[np.uint64]]) -> _Piece:
        joined = np.concatenate([np.empty(0, np.uint64), *prefixes])
        order = np.argsort(joined, kind="stable")
        return cls(joined[order], np.concatenate([np.empty(0, np.uint64), *rows])[order])

    def find(self, wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the row ids of the prefixes that are in this piece."""
        places = positions(self.prefixes, wanted)
        found: NDArray[np.uint64] = self.rows[places[places >= 0]]
        return found


class VectorLookup:
    """Finds vectors in a collection's newest version by text_hash.

    It holds 16 bytes per row, and reads only the added fragments of each later version.
    """

    def __init__(self, live: Live, datasets: Datasets) -> None:
        """Read nothing yet."""
        self._live, self._datasets = live, datasets
        self.collection = live.collection
        self._seen: frozenset[int] = frozenset()
        self._pieces: list[_Piece] = []

    async def get_many(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors (float32) of the text hashes that the index holds; a damaged one counts as missing."""
        dataset = await self._datasets.open(self._live)
        if dataset is None or not hashes:
            return {}
        try:
            return await blocking(
                lambda: self._answer(dataset, hashes), f"the index of {self._live.collection}"
            )
        except Unexplained as error:  # such as a text_hash of the index that is no hash
            raise damaged(f"the index of {self._live.collection}", error) from error

    def _answer(self, dataset: lance.LanceDataset, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        self._catch_up(dataset)
        asked = np.fromiter((int(text[:16], 16) for text in hashes), np.uint64, len(hashes))
        rows = np.concatenate([np.empty(0, np.uint64), *(piece.find(asked) for piece in self._pieces)])
        if not len(rows):
            return {}
        wanted = set(hashes)  # another text may have the same prefix of 8 bytes
        batches = dataset.to_batches(
            columns=["text_hash", "vector"], filter=row_ids_in(np.unique(rows).tolist())
        )
        found = {}
        for batch in batches:
            vectors, texts = vectors_in(batch), batch["text_hash"].to_pylist()
            good = usable(vectors, self._live.space)
            found.update({texts[at]: vectors[at] for at in np.flatnonzero(good) if texts[at] in wanted})
        return found

    def _catch_up(self, dataset: lance.LanceDataset) -> None:
        """Read the text hashes of new fragments; of all, if a compaction has moved rows."""
        fragments = {each.fragment_id: each for each in dataset.get_fragments()}
        if not self._seen <= fragments.keys():
            self._seen, self._pieces = frozenset(), []
        fresh = [each for number, each in fragments.items() if number not in self._seen]
        if not fresh:
            return
        prefixes, rows = [], []
        scanner = dataset.scanner(columns=["text_hash"], with_row_id=True, fragments=fresh)
        for batch in scanner.to_batches():
            texts = batch["text_hash"].to_pylist()
            kept = np.fromiter((bool(text) for text in texts), bool, len(texts))
            prefixes.append(
                np.fromiter((int(text[:16], 16) for text in texts if text), np.uint64, kept.sum())
            )
            rows.append(batch["_rowid"].to_numpy()[kept])
        self._pieces.append(_Piece.of(prefixes, rows))
        if len(self._pieces) > PIECES:
            every = self._pieces
            self._pieces = [_Piece.of([each.prefixes for each in every], [each.rows for each in every])]
        self._seen = frozenset(fragments)


def usable(vectors: NDArray[np.float32], space: Space) -> NDArray[np.bool_]:
    """Mark the rows that are finite, not all zeros, and of length 1 in a normalized space."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float32) ** 0.5
        good: NDArray[np.bool_] = np.isfinite(lengths) & (lengths > 0)
        if space.normalized and space.precision == "float32":
            good &= np.abs(lengths - 1) <= LENGTH_TOLERANCE
    return good
