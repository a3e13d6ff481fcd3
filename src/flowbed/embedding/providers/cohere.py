"""Cohere's embeddings, version 2 of its API.

Source: https://docs.cohere.com/reference/embed and the package cohere 7.3.1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flowbed.embedding.options import COMMON, ModelOptions
from flowbed.embedding.providers.client import (
    ParsedResponse,
    ProviderModel,
    ProviderTerms,
    Refusal,
    RemoteEmbedder,
    chosen_dimensions,
    open_client,
    price_of,
    required_key,
)
from flowbed.embedding.providers.parsing import message_of, positional, usage
from flowbed.embedding.tokens import open_counter
from flowbed.embedding.vendors import Vendor
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding.reranking.remote import ParsedRanking, RemoteReranker
    from flowbed.http.client import HttpResponse
    from flowbed.records import Purpose

BASE_URL = "https://api.cohere.com"
KEY = "CO_API_KEY"

ITEMS = 96
# Texts, in any number of requests.
INPUTS_PER_MINUTE = 2_000
# No limit per request is documented, so it is what 96 texts may have.
LONG, SHORT = 128_000, 512
INPUT_TYPES: Mapping[Purpose, str] = {"document": "search_document", "query": "search_query"}
# Cohere's tokenizers make at most this many tokens of prose for one of OpenAI's.
FACTOR = 1.2

MODELS = {
    "embed-v4.0": ProviderModel(
        dimensions=1_536,
        window=LONG,
        request=ITEMS * LONG,
        sizes=frozenset({256, 512, 1_024, 1_536}),
        price=0.12,
    ),
    "embed-english-v3.0": ProviderModel(dimensions=1_024, window=SHORT, request=ITEMS * SHORT, price=0.10),
    "embed-multilingual-v3.0": ProviderModel(
        dimensions=1_024, window=SHORT, request=ITEMS * SHORT, price=0.10
    ),
    "embed-english-light-v3.0": ProviderModel(
        dimensions=384, window=SHORT, request=ITEMS * SHORT, price=0.10
    ),
    "embed-multilingual-light-v3.0": ProviderModel(
        dimensions=384, window=SHORT, request=ITEMS * SHORT, price=0.10
    ),
}

TOO_MANY_TEXTS = re.compile(r"number of texts must be at most", re.IGNORECASE)
# A trial key's monthly calls are used up: waiting a minute, as for other 429, does not help.
MONTHLY = re.compile(r"/\s*month|per month|monthly", re.IGNORECASE)
NO_SUCH_MODEL = re.compile(
    r"model .{0,80}(not found|not supported|does not exist)|unknown model", re.IGNORECASE
)
BAD_REQUEST, TOO_MANY, BLOCKED = 400, 429, 498


def open_cohere(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteEmbedder:  # noqa: ARG001 - keeps no files
    """Open a model of Cohere; docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = ModelOptions("cohere", options, COMMON)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    return RemoteEmbedder(
        CohereApi(name, dimensions=dimensions if model is None or model.sizes else None),
        open_client(read, read.text("base_url", BASE_URL), key=key),
        space=Space(
            model=name,
            dimensions=dimensions,
            prompts=tuple((purpose, f"input_type:{word}") for purpose, word in INPUT_TYPES.items()),
        ),
        terms=ProviderTerms(
            items=min(read.number("items") or ITEMS, ITEMS),
            tokens=read.number("tokens") or (model.request if model else ITEMS * SHORT),
            window=model.window if model else 0,
            price=price_of(read, name, model),
            rates=read.rates(inputs=INPUTS_PER_MINUTE),
            matryoshka=model is not None and bool(model.sizes),
            key=KEY,
        ),
        counter=open_counter(read.text("tokenizer"), factor=FACTOR),
    )


class CohereApi:
    """Cohere's API."""

    path = "/v2/embed"

    def __init__(self, model: str, *, dimensions: int | None) -> None:
        """Set the fields of every request."""
        # By default it truncates long texts.
        self._fixed: dict[str, Any] = {"model": model, "embedding_types": ["float"], "truncate": "NONE"}
        if dimensions is not None:
            self._fixed["output_dimension"] = dimensions

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Return the body of a request; its type is required."""
        return {"texts": texts, "input_type": INPUT_TYPES[purpose], **self._fixed}

    def read(self, payload: Any, count: int) -> ParsedResponse:  # parsed JSON
        """Parse {embeddings: {float: [...]}, meta: {billed_units: {input_tokens}}}; vectors have no index."""
        embeddings = payload.get("embeddings") if isinstance(payload, dict) else None
        rows = embeddings.get("float") if isinstance(embeddings, dict) else None
        return ParsedResponse(
            embeddings=positional(rows, count),
            tokens=usage(payload, "meta", "billed_units", "input_tokens"),
        )

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {message}, which alone distinguishes bad requests."""
        return refused(response)


def refused(response: HttpResponse) -> Refusal:
    """Interpret the refusal of any request to Cohere."""
    message = message_of(response.json)
    if response.status == TOO_MANY and MONTHLY.search(message):
        return Refusal(verdict="misconfigured", advice="use a production key")
    if response.status == BLOCKED:
        # Cohere's status for a text that its filter blocks, and for an unknown key.
        return Refusal(verdict="rejected" if "blocked" in message.lower() else "misconfigured")
    if response.status == BAD_REQUEST and TOO_MANY_TEXTS.search(message):
        return Refusal(verdict="too_large")
    if response.status == BAD_REQUEST and NO_SUCH_MODEL.search(message):
        return Refusal(verdict="misconfigured")
    return Refusal()


# Texts in a request for reranking, and US dollars per thousand searches of up to 100 texts each (as of 2026).
RERANKED = 1_000
RERANKERS: Mapping[str, float] = {
    "rerank-v3.5": 2.0,
    "rerank-english-v3.0": 2.0,
    "rerank-multilingual-v3.0": 2.0,
}


def open_cohere_reranker(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteReranker:  # noqa: ARG001 - keeps no files
    """Open a reranker of Cohere; docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    from flowbed.embedding.reranking.remote import RemoteReranker, RerankTerms

    read = ModelOptions("cohere", options, COMMON)
    price = read.amount("price")
    return RemoteReranker(
        name,
        CohereRerankApi(name),
        open_client(read, read.text("base_url", BASE_URL), key=required_key(read, KEY)),
        terms=RerankTerms(most=RERANKED, unit_price=RERANKERS.get(name) if price is None else price, key=KEY),
        counter=open_counter(read.text("tokenizer"), factor=FACTOR),
    )


class CohereRerankApi:
    """Cohere's API for reranking; it reads the first 4,096 tokens of a text.

    Source: https://docs.cohere.com/reference/rerank.
    """

    path = "/v2/rerank"

    def __init__(self, model: str) -> None:
        """Set the model of every request."""
        self._model = model

    def body(self, query: str, texts: Sequence[str]) -> Mapping[str, Any]:
        """Return the body of a request."""
        return {"model": self._model, "query": query, "documents": texts}

    def read(self, payload: Any, count: int) -> ParsedRanking:  # parsed JSON
        """Parse {results: [{index, relevance_score}], meta: {billed_units: {search_units}}}."""
        from flowbed.embedding.reranking.remote import ParsedRanking, scores_of, units_of

        results = payload.get("results") if isinstance(payload, dict) else None
        return ParsedRanking(scores=scores_of(results, count), units=units_of(payload))

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {message}, as for embeddings."""
        return refused(response)


VENDOR = Vendor(
    open=open_cohere,
    open_reranker=open_cohere_reranker,
    models=MODELS,
    variables={"api_key": (KEY, "COHERE_API_KEY"), "base_url": ("CO_API_URL",)},
)
