"""The story of one request for embeddings."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowbed import telemetry
from flowbed.embedding.dimensions import fit, fitted, is_padded
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.serving import EmbeddingsResult
from flowbed.services.inputs import (
    arrays_of,
    most_tokens,
    require_sizes,
    require_within,
    surely_within,
    texts_of,
)
from flowbed.services.served_model import allow, vendor_of
from flowbed.services.token_arrays import TokenArrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Embedded, Space
    from flowbed.records.serving import Caller, DimensionPolicy, EmbeddingsRequest, Input, Serving
    from flowbed.services.models import Models
    from flowbed.services.quotas import Quotas
    from flowbed.services.served_model import ServedModel

# Tokens, or numbers of vectors, from which on work is done in a thread: below, it takes less than a few milliseconds,
# and handing it over would take longer than most of it.
LONG_TOKENS, LONG_NUMBERS = 10_000, 1_000_000

# No model has more; without a ceiling, padding would fill the memory with zeros.
DIMENSIONS_MOST = 16_384


class Embeddings:
    """Answers requests for embeddings."""

    def __init__(self, models: Models, quotas: Quotas, serving: Serving) -> None:
        """Take the models to answer with, what callers may use, and what the operator has settled."""
        self._models = models
        self._quotas = quotas
        self._serving = serving
        self._arrays = TokenArrays(serving.token_arrays)

    async def answer(self, asked: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        """Answer one request, whole or not at all.

        Raises:
            TooMany: the caller has had its requests of this minute, or a provider has.
            NotFound: no model goes by that name.
            Forbidden: the caller's key may not use it.
            Rejected: the input, or the dimensions, cannot be used; `param` and `code` are as OpenAI's.
            Exhausted: the caller's quota of today does not suffice.
            Transient: no provider could answer now; `Unavailable` where all are known to be down.
            Misconfigured: none can until a setting changes.
        """
        await self._quotas.admit(caller)
        model = self._models.named(asked.model)
        allow(model.id, model.names, caller, self._serving)
        self._space(model, asked)  # refused before anything is paid for
        texts, most = await self._texts(model, asked.input)
        left = self._quotas.left(caller)
        if left is not None and most > left:
            most = await _counted(model, texts, most)
        self._quotas.hold(caller, most)
        tokens = 0
        try:
            answering, embedded = await self._embed(model, texts, asked, caller)
            _require_numbers(answering, embedded)
            # A text that comes twice is embedded once, and counts twice, as it does with OpenAI.
            tokens = sum(embedded.counts) if embedded.counts else await _counted(answering, texts, most)
        finally:
            self._quotas.settle(caller, held=most, tokens=tokens)
        self._models.uses.note(model.id, asked.input_type, texts)
        return await self._answered(answering, embedded, asked, tokens)

    async def _texts(self, model: ServedModel, given: Input) -> tuple[list[str], int]:
        """Tell the texts of an input, and how many tokens they cannot exceed together."""
        arrays = arrays_of(given)
        if arrays is not None:
            tokens = require_sizes([len(array) for array in arrays])
            if tokens < LONG_TOKENS:
                texts = self._arrays.texts(arrays, model.first)
            else:
                texts = await asyncio.to_thread(self._arrays.texts, arrays, model.first)
            return texts, sum(map(most_tokens, texts))
        texts = texts_of(given)
        most = [most_tokens(text) for text in texts]
        if not surely_within(most):
            await asyncio.to_thread(require_within, texts, model.embedder.count)
        return texts, sum(most)

    async def _embed(
        self, model: ServedModel, texts: Sequence[str], asked: EmbeddingsRequest, caller: Caller
    ) -> tuple[ServedModel, Embedded]:
        """Embed in the model's own space, or else, where settings and request allow it, in that of another model."""
        try:
            return model, await model.embed(texts, purpose=asked.input_type)
        except (Transient, Misconfigured) as failed:
            for other in model.across if asked.crossing else ():
                try:
                    self._space(other, asked)
                    allow(other.id, other.names, caller, self._serving)
                    embedded = await other.embed(texts, purpose=asked.input_type)
                except (Transient, Misconfigured, Rejected) as error:
                    telemetry.log.debug("%s did not stand in for %s: %s", other.spec, model.spec, error)
                    continue
                telemetry.reached(telemetry.FALLBACK, provider=model.spec, reason=str(failed))
                return other, embedded
            raise

    async def _answered(
        self, model: ServedModel, embedded: Embedded, asked: EmbeddingsRequest, tokens: int
    ) -> EmbeddingsResult:
        space = self._space(model, asked)
        vectors = embedded.vectors
        if space.dimensions != vectors.shape[1]:
            if len(vectors) * max(space.dimensions, vectors.shape[1]) < LONG_NUMBERS:
                vectors = fit(vectors, space.dimensions, normalized=space.normalized)
            else:
                vectors = await asyncio.to_thread(fit, vectors, space.dimensions, normalized=space.normalized)
        return EmbeddingsResult(
            vectors=vectors,
            model=model.id,
            space=space.fingerprint,
            provider=vendor_of(embedded.provider or model.spec),
            tokens=tokens,
            cached=embedded.cached,
            padded=is_padded(space),
            counts=embedded.counts,
        )

    def _space(self, model: ServedModel, asked: EmbeddingsRequest) -> Space:
        """Tell the space of what a model answers to a request.

        Raises:
            Rejected: it has no vectors of the dimensions that are asked for.
        """
        if asked.dimensions is None or asked.dimensions == model.space.dimensions:
            return model.space
        if asked.dimensions > DIMENSIONS_MOST:
            raise Rejected(
                f"{asked.dimensions} is greater than the maximum of {DIMENSIONS_MOST} - 'dimensions'",
                param="dimensions",
                code="integer_above_max_value",
            )
        return _fitted(model.space, asked.dimensions, self._serving.dimensions, model.source.matryoshka)


def _require_numbers(model: ServedModel, embedded: Embedded) -> None:
    """Let vectors through that JSON can write, and that are somewhere.

    Raises:
        Transient: one has numbers that are not finite, which the cache never keeps.
    """
    if embedded.cached < len(embedded.vectors) and not np.isfinite(embedded.vectors).all():
        raise Transient(f"model {model.id} answered vectors with numbers that are not finite; try again")


# The fingerprint of a space is kept with it, and takes longer to make than everything else here.
@lru_cache(maxsize=1_024)
def _fitted(space: Space, dimensions: int, policy: DimensionPolicy, matryoshka: bool) -> Space:
    return fitted(space, dimensions, policy, matryoshka=matryoshka)


async def _counted(model: ServedModel, texts: Sequence[str], most: int) -> int:
    """Count the tokens of texts, which are no more than `most`."""
    if most < LONG_TOKENS:
        return sum(map(model.embedder.count, texts))
    return await asyncio.to_thread(lambda: sum(map(model.embedder.count, texts)))
