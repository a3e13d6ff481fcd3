"""The index as the last tier of the vector cache: a text that it holds is never paid for again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flowbed.index.datasets import blocking

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lance
    from numpy.typing import NDArray

    from flowbed.index.datasets import Datasets
    from flowbed.index.live import Live


class Reuse:
    """Vectors of one collection's newest version by text_hash; opened at the first question, for one run's length.

    It holds 16 bytes a row: the first 8 of each text_hash, sorted, and the place of its row.
    """

    def __init__(self, live: Live, datasets: Datasets) -> None:
        """Read nothing yet."""
        self._live, self._datasets = live, datasets
        self._dataset: lance.LanceDataset | None = None
        self._prefixes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._places: NDArray[np.int64] = np.empty(0, np.int64)

    async def get_many(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Read the vectors (float32) of those text hashes that the index holds."""
        if self._dataset is None:
            self._dataset = await self._datasets.open(self._live)
            self._prefixes, self._places = await blocking(self._read, f"the index of {self._live.collection}")
        if not len(self._prefixes) or not hashes:
            return {}
        return await blocking(lambda: self._take(hashes), f"the index of {self._live.collection}")

    def _read(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        if self._dataset is None or not self._dataset.count_rows():
            return self._prefixes, self._places
        prefixes, places, at = [], [], 0
        for batch in self._dataset.to_batches(columns=["text_hash"], scan_in_order=True):
            kept = [(place, text) for place, text in enumerate(batch["text_hash"].to_pylist(), at) if text]
            at += batch.num_rows
            prefixes.append(np.fromiter((int(text[:16], 16) for _, text in kept), np.uint64, len(kept)))
            places.append(np.fromiter((place for place, _ in kept), np.int64, len(kept)))
        joined = np.concatenate(prefixes)
        order = np.argsort(joined, kind="stable")
        return joined[order], np.concatenate(places)[order]

    def _take(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        if self._dataset is None:
            return {}
        asked = np.fromiter((int(text[:16], 16) for text in hashes), np.uint64, len(hashes))
        at = np.searchsorted(self._prefixes, asked)
        inside = at < len(self._prefixes)
        hit = np.zeros(len(asked), bool)
        hit[inside] = self._prefixes[at[inside]] == asked[inside]
        if not hit.any():
            return {}
        rows = self._dataset.take(self._places[at[hit]].tolist(), columns=["text_hash", "vector"])
        vectors = np.asarray(
            pa.chunked_array(rows["vector"]).combine_chunks().flatten().to_numpy(zero_copy_only=False),
            np.float32,
        ).reshape(rows.num_rows, -1)
        wanted = set(hashes)  # a prefix of 8 bytes may belong to another text
        return {
            text: vectors[place] for place, text in enumerate(rows["text_hash"].to_pylist()) if text in wanted
        }
