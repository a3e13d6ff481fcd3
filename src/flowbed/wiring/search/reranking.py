"""Reranks the hits of searches with the model that the settings name, and records what that cost."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed import settings
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.index.search import Ranking
from flowbed.ledger import SpendRow
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.embedding.reranking import Reranked, Reranker
    from flowbed.ledger import Ledger
    from flowbed.records import Hit

LANE = "rerank"  # under which the ledger keeps what it cost


class Reranking:
    """The reranker of one project, opened on first use."""

    def __init__(self, folder: Path, config: settings.Settings, ledger: Ledger, *, hidden: Path) -> None:
        """Open nothing yet."""
        self._folder, self._config, self._ledger, self._hidden = folder, config, ledger, hidden
        self._opened: Reranker | None = None
        self._opening = asyncio.Lock()

    async def rerank(self, query: str, hits: Sequence[Hit]) -> Ranking:
        """Order hits by how well their texts answer the query; where that fails for now, as they are, with a warning.

        Hits without a text come last.

        Raises:
            Misconfigured: no reranker is set, or it cannot be used.
            Rejected: there are more hits than it takes.
        """
        reranker = await self._reranker()
        if len(hits) > reranker.most:
            raise Rejected(f"{reranker.model} reranks at most {reranker.most:,} hits; lower the limit")
        read = [hit for hit in hits if hit.document.strip()]
        try:
            found = await reranker.rerank(query, [hit.document for hit in read])
        except (Transient, Rejected) as error:
            return Ranking(hits=hits, warnings=(f"not reranked: {error}",))
        scored = [_scored(hit, score) for hit, score in zip(read, found.scores, strict=True)]
        scored.sort(key=lambda hit: (-hit.score, hit.id))
        warnings = await self._spent(found, len(read))
        return Ranking(
            hits=[*scored, *(hit for hit in hits if not hit.document.strip())],
            warnings=warnings,
            tokens=found.tokens,
        )

    async def aclose(self) -> None:
        """Close the reranker's connections."""
        if self._opened is not None:
            await self._opened.aclose()
            self._opened = None

    async def _reranker(self) -> Reranker:
        async with self._opening:
            if self._opened is None:
                if not self._config.reranker:
                    raise Misconfigured(
                        'no reranker is set: write one into flowbed.toml, such as reranker = "cohere:rerank-v3.5"'
                    )
                self._opened = await asyncio.to_thread(self._open)
            return self._opened

    def _open(self) -> Reranker:
        from flowbed.embedding.reranking import open_reranker

        target, options = settings.provider_options(self._config, self._config.reranker)
        cache = settings.model_cache(self._config, folder=self._folder, hidden=self._hidden)
        return open_reranker(target, cache=cache, options=options)

    async def _spent(self, found: Reranked, texts: int) -> tuple[str, ...]:
        """Record what was billed; a search of a ledger that cannot be written says so."""
        if not found.cost_usd:
            return ()
        row = SpendRow(
            run=f"{LANE}-{secrets.token_hex(16)}",
            lane=LANE,
            source="",
            document="",
            texts=texts,
            planned=found.tokens,
            billed=found.tokens,
            cost_usd=found.cost_usd,
            at=process.now(),
        )
        try:
            await self._ledger.spending.record([row])
        except Error as error:
            return (f"reranking cost ${found.cost_usd:.4f}, which could not be recorded: {error}",)
        return ()


def _scored(hit: Hit, score: float) -> Hit:
    """Give a hit the reranker's score; its own is kept under the list that it came from."""
    return replace(hit, score=score, scores={**hit.scores, LANE: score})
