"""The path of one request for embeddings: admission, quota, model, fallback, result."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowbed import telemetry
from flowbed.embedding.dimensions import is_padded, resize, resized_space
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records.serving import EmbeddingsResult
from flowbed.services.embedding.inputs import (
    arrays_of,
    most_tokens,
    require_sizes,
    require_within,
    surely_within,
    texts_of,
)
from flowbed.services.embedding.served_model import allow, vendor_of
from flowbed.services.embedding.token_arrays import TokenArrayReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Embedded, Space
    from flowbed.records.serving import Caller, DimensionPolicy, EmbeddingsRequest, Input, Serving
    from flowbed.services.embedding.served_model import ServedModel
    from flowbed.services.models import Models
    from flowbed.services.quotas import QuotaService

# From this many tokens, or numbers in vectors, work moves to a thread: less takes a few milliseconds, most of which the
# hand-over would cost.
LONG_TOKENS, LONG_NUMBERS = 10_000, 1_000_000
CHARACTERS_A_TOKEN = 4  # of English text

# No model has more; without a limit, padding could fill the memory with zeros.
DIMENSIONS_MOST = 16_384


class EmbeddingService:
    """Answers requests for embeddings."""

    def __init__(self, models: Models, quotas: QuotaService, serving: Serving) -> None:
        """Answer with `models`, within `quotas` and the operator's choices in `serving`."""
        self._models = models
        self._quotas = quotas
        self._serving = serving
        self._arrays = TokenArrayReader(serving.token_arrays)

    async def answer(self, request: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        """Answer one request, completely or not at all.

        Raises:
            TooMany: the caller's requests per minute, or a provider's, are used up.
            NotFound: no model has that name.
            Forbidden: the caller's key may not use the model.
            Rejected: the input or the dimensions are invalid; `param` and `code` are OpenAI's.
            Exhausted: the caller's quota of the day is too small.
            Transient: no provider can answer now; `Unavailable` if all are known to be down.
            Misconfigured: no provider can answer until a setting changes.
        """
        await self._quotas.admit(caller)
        model = self._models.named(request.model)
        allow(model.id, model.names, caller, self._serving)
        self._space(model, request)  # reject before anything is paid for
        texts, most = await self._texts(model, request.input)
        left = self._quotas.left(caller)
        if left is not None and most > left:
            most = await _counted(model, texts, most)
        self._quotas.hold(caller, most)
        tokens = taken = made = 0
        try:
            taken = made = await self._quotas.take_embeddings(caller, len(texts))
            answering, embedded = await self._embed(model, texts, request, caller)
            _require_numbers(answering, embedded)
            made = len(texts) - embedded.cached  # a vector that was there is none that is made
            # A repeated text is embedded once but counted every time, as OpenAI does.
            tokens = sum(embedded.counts) if embedded.counts else await _counted(answering, texts, most)
        except asyncio.CancelledError:
            # The caller left, but a provider may have been paid: leaving must not make requests free.
            tokens = (
                sum(map(model.embedder.count, texts)) if most < LONG_TOKENS else most // CHARACTERS_A_TOKEN
            )
            raise
        except Exception:
            made = 0
            raise
        finally:
            self._quotas.settle(caller, held=most, tokens=tokens)
            self._quotas.settle_embeddings(caller, taken=taken, made=made)
        self._models.uses.note(model.id, request.input_type, texts)
        return await self._answered(answering, embedded, request, tokens)

    async def _texts(self, model: ServedModel, given: Input) -> tuple[list[str], int]:
        """Return the texts of an input, and an upper bound of their tokens."""
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
        self, model: ServedModel, texts: Sequence[str], request: EmbeddingsRequest, caller: Caller
    ) -> tuple[ServedModel, Embedded]:
        """Embed with the model, or, if settings and request allow it, with a fallback of another space."""
        try:
            return model, await model.embed(texts, purpose=request.input_type)
        except (Transient, Misconfigured) as failed:
            for other in model.across if request.crossing else ():
                try:
                    self._space(other, request)
                    allow(other.id, other.names, caller, self._serving)
                    embedded = await other.embed(texts, purpose=request.input_type)
                except (Transient, Misconfigured, Rejected) as error:
                    telemetry.log.debug("fallback %s for %s failed: %s", other.spec, model.spec, error)
                    continue
                telemetry.reached(telemetry.FALLBACK, provider=model.spec, reason=str(failed))
                return other, embedded
            raise

    async def _answered(
        self, model: ServedModel, embedded: Embedded, request: EmbeddingsRequest, tokens: int
    ) -> EmbeddingsResult:
        space = self._space(model, request)
        vectors = embedded.vectors
        if space.dimensions != vectors.shape[1]:
            if len(vectors) * max(space.dimensions, vectors.shape[1]) < LONG_NUMBERS:
                vectors = resize(vectors, space.dimensions, normalized=space.normalized)
            else:
                vectors = await asyncio.to_thread(
                    resize, vectors, space.dimensions, normalized=space.normalized
                )
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

    def _space(self, model: ServedModel, request: EmbeddingsRequest) -> Space:
        """Return the space of a model's answer to a request.

        Raises:
            Rejected: the model cannot give vectors of the requested dimensions.
        """
        if request.dimensions is None or request.dimensions == model.space.dimensions:
            return model.space
        if request.dimensions > DIMENSIONS_MOST:
            raise Rejected(
                f"{request.dimensions} is greater than the maximum of {DIMENSIONS_MOST} - 'dimensions'",
                param="dimensions",
                code="integer_above_max_value",
            )
        return _fitted(model.space, request.dimensions, self._serving.dimensions, model.source.matryoshka)


def _require_numbers(model: ServedModel, embedded: Embedded) -> None:
    """Refuse vectors with NaN or infinite numbers, which JSON cannot represent.

    Raises:
        Transient: a vector has such numbers; the cache never keeps it.
    """
    if embedded.cached < len(embedded.vectors) and not np.isfinite(embedded.vectors).all():
        raise Transient(f"model {model.id} returned vectors with NaN or infinite numbers; try again")


# Cached because hashing a space takes longer than everything else here.
@lru_cache(maxsize=1_024)
def _fitted(space: Space, dimensions: int, policy: DimensionPolicy, matryoshka: bool) -> Space:
    return resized_space(space, dimensions, policy, matryoshka=matryoshka)


async def _counted(model: ServedModel, texts: Sequence[str], most: int) -> int:
    """Count the tokens of texts, of which there are at most `most`."""
    if most < LONG_TOKENS:
        return sum(map(model.embedder.count, texts))
    return await asyncio.to_thread(lambda: sum(map(model.embedder.count, texts)))
