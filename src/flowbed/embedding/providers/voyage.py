"""Voyage's embeddings and Batch API, at Voyage's own address or MongoDB's.

Sources: https://docs.voyageai.com/reference/embeddings-api, https://docs.voyageai.com/docs/batch-inference with the
references of batches and files, and the package voyageai 0.5.0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flowbed.embedding.batch_api import JobTerms
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
from flowbed.embedding.providers.parsing import indexed, message_of, usage
from flowbed.embedding.tokens import open_counter
from flowbed.embedding.vendors import Vendor
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api.job_client import HttpBatchApi
    from flowbed.embedding.reranking.remote import ParsedRanking, RemoteReranker
    from flowbed.http.client import HttpResponse
    from flowbed.records import Purpose

BASE_URL = "https://api.voyageai.com/v1"
# MongoDB's keys start with this, and are valid only at its own address.
MONGODB_KEY, MONGODB_URL = "al-", "https://ai.mongodb.com/v1"
KEY = "VOYAGE_API_KEY"
OPTIONS = (*COMMON, "batch_tokens")

ITEMS = 1_000
SIZES = frozenset({256, 512, 1_024, 2_048})
# The first tier's; the second has twice as much of everything, the third three times.
REQUESTS_PER_MINUTE = 2_000
# Voyage's tokenizers make up to 1.2 times as many tokens of prose as OpenAI's. For code and mixed scripts it can be far
# more: a request that is too large is sent again in halves.
FACTOR = 1.2

# A batch job: texts, and seconds until it is done or expires.
JOB_TEXTS, JOB_SECONDS = 100_000, 43_200
# Bytes of a job's input. The guide names no limit (2026-11-21; 1 GB is said elsewhere, unverified): OpenAI's is assumed
# to be safe.
JOB_BYTES = 200_000_000
# Tokens of all jobs of an organization together. It may have 100 jobs at once: the next one is answered with 429.
JOB_QUEUE = 1_000_000_000
JOB_ENDPOINT = "/v1/embeddings"

# Name, tokens in a text, in a request and in a minute, price. Models of one size have no Batch API.
MODELS = {
    name: ProviderModel(
        dimensions=1_024,
        window=window,
        request=request,
        sizes=SIZES,
        tokens_per_minute=per_minute,
        price=price,
        batch_share=0.67,
    )
    for name, window, request, per_minute, price in (
        ("voyage-4-large", 32_000, 120_000, 3_000_000, 0.12),
        ("voyage-4", 32_000, 320_000, 8_000_000, 0.06),
        ("voyage-4-lite", 32_000, 1_000_000, 16_000_000, 0.02),
        ("voyage-3-large", 32_000, 120_000, 3_000_000, 0.18),
        ("voyage-3.5", 32_000, 320_000, 8_000_000, 0.06),
        ("voyage-3.5-lite", 32_000, 1_000_000, 16_000_000, 0.02),
        ("voyage-code-3", 32_000, 120_000, 3_000_000, 0.18),
    )
} | {
    name: ProviderModel(
        dimensions=1_024, window=window, request=request, tokens_per_minute=per_minute, price=price
    )
    for name, window, request, per_minute, price in (
        ("voyage-finance-2", 32_000, 120_000, 3_000_000, 0.12),
        ("voyage-law-2", 16_000, 120_000, 3_000_000, 0.12),
        ("voyage-2", 4_000, 320_000, 8_000_000, 0.10),
    )
}
# The limit assumed for a model that is not in the table: the smallest of these.
SMALLEST = 120_000

# Messages that the request as a whole is too large, and that some of its texts are.
TOO_LARGE = re.compile(r"max(imum)? allowed tokens per submitted batch|batch size limit", re.IGNORECASE)
TOO_LONG = re.compile(
    r"examples?(?:\(s\))? at ind(?:ex(?:es)?|ices) (\d+(?:(?:,| and|, and) \d+)*)", re.IGNORECASE
)
NO_SUCH_MODEL = re.compile(r"model .{1,80} is not (supported|available)", re.IGNORECASE)
# The account is exhausted, as opposed to too many requests.
USED_UP = re.compile(
    r"used up|exceeded .{0,30}quota|insufficient (credit|balance|funds|quota)", re.IGNORECASE
)
BAD_REQUEST, TOO_MANY = 400, 429


def open_voyage(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteEmbedder:  # noqa: ARG001 - keeps no files
    """Open a model of Voyage; docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = ModelOptions("voyage", options, OPTIONS)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    base_url = read.text("base_url", MONGODB_URL if key.startswith(MONGODB_KEY) else BASE_URL)
    return RemoteEmbedder(
        VoyageApi(name, dimensions=dimensions if model is None or model.sizes else None),
        open_client(read, base_url, key=key),
        space=Space(
            model=name,
            dimensions=dimensions,
            # Voyage prepends its own prompt to a text, a different one for each type.
            prompts=(("document", "input_type:document"), ("query", "input_type:query")),
        ),
        terms=ProviderTerms(
            items=min(read.number("items") or ITEMS, ITEMS),
            tokens=read.number("tokens") or (model.request if model else SMALLEST),
            window=model.window if model else 0,
            price=price_of(read, name, model),
            rates=read.rates(requests=REQUESTS_PER_MINUTE, tokens=model.tokens_per_minute if model else None),
            matryoshka=model is not None and bool(model.sizes),
            key=KEY,
        ),
        counter=open_counter(read.text("tokenizer"), factor=FACTOR),
    )


class VoyageApi:
    """Voyage's API."""

    path = "/embeddings"

    def __init__(self, model: str, *, dimensions: int | None) -> None:
        """Set the fields of every request."""
        # By default it truncates long texts. It does not know the encoding "float".
        self._fixed: dict[str, Any] = {"model": model, "truncation": False, "encoding_format": "base64"}
        if dimensions is not None:
            self._fixed["output_dimension"] = dimensions

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Return the body of a request."""
        return {"input": texts, "input_type": purpose, **self._fixed}

    def read(self, payload: Any, count: int) -> ParsedResponse:  # parsed JSON
        """Parse {data: [{index, embedding}], usage: {total_tokens}}."""
        data = payload.get("data") if isinstance(payload, dict) else None
        return ParsedResponse(embeddings=indexed(data, count), tokens=usage(payload, "usage", "total_tokens"))

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {detail}, which alone distinguishes bad requests."""
        return refused(response)


def refused(response: HttpResponse) -> Refusal:
    """Interpret the refusal of any request to Voyage."""
    message = message_of(response.json)
    if response.status == TOO_MANY and USED_UP.search(message):
        return Refusal(verdict="misconfigured", advice="check the account's plan and credit")
    if response.status != BAD_REQUEST:
        return Refusal()
    if found := TOO_LONG.search(message):
        return Refusal(verdict="rejected", inputs=tuple(map(int, re.findall(r"\d+", found[1]))))
    if TOO_LARGE.search(message):
        return Refusal(verdict="too_large")
    if NO_SUCH_MODEL.search(message):
        return Refusal(verdict="misconfigured")
    return Refusal()


def open_voyage_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> HttpBatchApi | None:
    """Open Voyage's Batch API; None for models that it does not run.

    Raises:
        Misconfigured: an option is wrong.
    """
    from flowbed.embedding.batch_api.job_client import HttpBatchApi, remote_behind
    from flowbed.embedding.wrappers.buckets import bucket_name

    read = ModelOptions("voyage", options, OPTIONS)
    remote = remote_behind(embedder)
    model = MODELS.get(name)
    if remote is None or model is None or model.batch_share is None:
        return None
    address, key = read.text("base_url").strip().rstrip("/"), read.text("api_key").strip()
    terms = JobTerms(
        texts=JOB_TEXTS,
        bytes=JOB_BYTES,
        tokens=read.number("batch_tokens") or JOB_QUEUE,
        seconds=JOB_SECONDS,
        price=remote.price * model.batch_share,
        account=bucket_name("voyage", f"{address} {key}"),
        table=read.table,
    )
    return HttpBatchApi(remote, VoyageJobs(), terms=terms)


class VoyageJobs:
    """Voyage's input lines and jobs: as OpenAI's, but lines hold only texts, and the job holds the other parameters."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return {custom_id, body: {input}}."""
        return {"custom_id": name, "body": {"input": request["input"]}}

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return {endpoint, completion_window, request_params}."""
        params = {field: value for field, value in request.items() if field != "input"}
        return {"endpoint": JOB_ENDPOINT, "completion_window": "12h", "request_params": params}


# Texts in a request for reranking, and US dollars per million tokens (as of 2026): of each text with the query.
RERANKED = 1_000
RERANKERS: Mapping[str, float] = {
    "rerank-2.5": 0.05,
    "rerank-2.5-lite": 0.02,
    "rerank-2": 0.05,
    "rerank-2-lite": 0.02,
}


def open_voyage_reranker(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteReranker:  # noqa: ARG001 - keeps no files
    """Open a reranker of Voyage; docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    from flowbed.embedding.reranking.remote import RemoteReranker, RerankTerms

    read = ModelOptions("voyage", options, OPTIONS)
    key, price = required_key(read, KEY), read.amount("price")
    base_url = read.text("base_url", MONGODB_URL if key.startswith(MONGODB_KEY) else BASE_URL)
    return RemoteReranker(
        name,
        VoyageRerankApi(name),
        open_client(read, base_url, key=key),
        terms=RerankTerms(
            most=RERANKED, token_price=RERANKERS.get(name) if price is None else price, key=KEY
        ),
        counter=open_counter(read.text("tokenizer"), factor=FACTOR),
    )


class VoyageRerankApi:
    """Voyage's API for reranking; texts that are longer than the window are read in part.

    Source: https://docs.voyageai.com/reference/reranker-api.
    """

    path = "/rerank"

    def __init__(self, model: str) -> None:
        """Set the model of every request."""
        self._model = model

    def body(self, query: str, texts: Sequence[str]) -> Mapping[str, Any]:
        """Return the body of a request."""
        return {"model": self._model, "query": query, "documents": texts, "truncation": True}

    def read(self, payload: Any, count: int) -> ParsedRanking:  # parsed JSON
        """Parse {data: [{index, relevance_score}], usage: {total_tokens}}."""
        from flowbed.embedding.reranking.remote import ParsedRanking, scores_of

        data = payload.get("data") if isinstance(payload, dict) else None
        return ParsedRanking(scores=scores_of(data, count), tokens=usage(payload, "usage", "total_tokens"))

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {detail}, as for embeddings."""
        return refused(response)


VENDOR = Vendor(
    open=open_voyage,
    open_jobs=open_voyage_jobs,
    open_reranker=open_voyage_reranker,
    models=MODELS,
    variables={"api_key": (KEY,)},
)
