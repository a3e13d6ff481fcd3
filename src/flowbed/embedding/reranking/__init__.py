"""Rerankers: models that read a query and a text together, and say how well the text answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flowbed.embedding.vendors import vendor_of
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """How well each text answers, in the order of the texts, higher for better; tokens read, and US dollars billed."""

    scores: tuple[float, ...]
    tokens: int = 0
    cost_usd: float = 0.0


class Reranker(Protocol):
    """Compares a query with up to `most` texts in one call."""

    model: str
    most: int

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        """Score every text or none.

        Raises:
            Transient: the same call may succeed later.
            Rejected: the query or a text will never be accepted.
            Misconfigured: no call can succeed until a setting changes.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; nothing can be reranked afterwards."""
        ...


def open_reranker(model: str, *, cache: Path, options: Mapping[str, str]) -> Reranker:
    """Open the reranker that `model` names as `vendor:model`; `options` are those of the vendor's embedders.

    Raises:
        Misconfigured: the vendor is unknown or has no rerankers, or its model cannot be opened.
    """
    opener = vendor_of(model).open_reranker
    if opener is None:
        raise Misconfigured(
            f"{model.partition(':')[0]} has no rerankers; write reranker as vendor:model with cohere, voyage or"
            " sentence_transformers"
        )
    reranker: Reranker = opener(model.partition(":")[2], cache=cache, options=options)
    return reranker
