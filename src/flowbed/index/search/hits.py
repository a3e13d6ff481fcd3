"""Lists of hits: ordered, one for each document, and two lists as one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.records import Hit

Unit = Literal["chunk", "document"]

# Reciprocal rank fusion. Questions in other words than their answers are found by vectors far more often, so a vector's
# rank counts twice; at the customary 60 in place of 5 a rank says little, and the lists were mixed whatever they knew
# (docs/decisions/0044-hybrid-is-not-the-default.md).
WEIGHTS: Mapping[str, float] = {"vector": 2.0, "text": 1.0}
RANK = 5


def by_score(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits with the best first; equal ones in the order of their ids."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id, hit.collection))


def document_of(hit: Hit) -> str:
    """Return the document of a hit: source and document from its metadata, otherwise its id without the ordinal."""
    if "document" in hit.metadata:
        return f"{hit.metadata.get('source', '')}#{hit.metadata['document']}"
    return hit.id.rpartition("#")[0] or hit.id


def one_each(hits: Sequence[Hit]) -> list[Hit]:
    """Keep the first hit of each document."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(document_of(hit), hit)
    return list(best.values())


def nearest_documents(find: Callable[[int], list[Hit]], *, rows: int, limit: int) -> list[Hit]:
    """Return the best chunk of each of the best documents, of the chunks that `find` returns for a number of them."""
    wanted = limit
    while True:  # many chunks of one document may come first: ask for more until enough documents are found
        wanted = min(wanted * 4, max(rows, 1))
        hits = find(wanted)
        best = one_each(hits)
        if len(best) >= limit or len(hits) < wanted or wanted >= rows:
            return best[:limit]


def fused(lists: Mapping[str, Sequence[Hit]], unit: Unit) -> list[Hit]:
    """Return the hits of several lists, by reciprocal rank; first in all of them is 1.

    A hit, or with unit `document` its document, gains by its rank in each list; of a document, the chunk that gained
    most is kept.
    """
    whole = sum(WEIGHTS[name] for name in lists) / (RANK + 1)
    gains: dict[object, dict[str, float]] = {}
    scores: dict[object, dict[str, float]] = {}
    shown: dict[object, tuple[float, Hit]] = {}
    for name, hits in lists.items():
        for rank, hit in enumerate(hits, start=1):
            key = document_of(hit) if unit == "document" else (hit.collection, hit.id)
            gain = WEIGHTS[name] / (RANK + rank) / whole
            gains.setdefault(key, {})[name] = gain
            scores.setdefault(key, {})[name] = hit.score
            if key not in shown or gain > shown[key][0]:
                shown[key] = gain, hit
    return by_score(
        [
            replace(shown[key][1], score=min(1.0, sum(gained.values())), scores=scores[key])
            for key, gained in gains.items()
        ]
    )
