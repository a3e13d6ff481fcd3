"""OpenAI's embeddings and Batch API, and Azure's embeddings of the same models.

Sources: https://platform.openai.com/docs/api-reference/embeddings and https://platform.openai.com/docs/guides/batch
(limits, dimensions, states, errors), with the references of batches and files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

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
from flowbed.embedding.tokens import Bpe, open_counter
from flowbed.embedding.vendors import Vendor
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api.job_client import HttpBatchApi
    from flowbed.http.client import HttpResponse
    from flowbed.records import Purpose

BASE_URL = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
OPTIONS = (*COMMON, "api_version", "batch_tokens", "deployment", "organization", "project")

ITEMS = 2_048
# Of all texts of a request together, and of one text.
TOKENS, WINDOW = 300_000, 8_192

# A batch job: texts, bytes of input, seconds until it is done or expires.
JOB_TEXTS, JOB_BYTES, JOB_SECONDS = 50_000, 200_000_000, 86_400
# Tokens of an embedding model that may be queued in the smallest paid tier (unverified, 2026-11-21: account holders see
# their own limits); larger tiers have more.
JOB_QUEUE = 3_000_000
# The Batch API's part of the price of a model that is not in the table: half, as for all of OpenAI's models.
BATCH_SHARE = 0.5
JOB_ENDPOINT = "/v1/embeddings"

MODELS = {
    "text-embedding-3-small": ProviderModel(
        dimensions=1_536, window=WINDOW, request=TOKENS, sizes=range(1, 1_537), price=0.02, batch_share=0.5
    ),
    "text-embedding-3-large": ProviderModel(
        dimensions=3_072, window=WINDOW, request=TOKENS, sizes=range(1, 3_073), price=0.13, batch_share=0.5
    ),
    "text-embedding-ada-002": ProviderModel(
        dimensions=1_536, window=WINDOW, request=TOKENS, price=0.10, batch_share=0.5
    ),
}

# Error codes that no other text and no later attempt would change.
OF_THE_ACCOUNT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
OF_THE_SETTINGS = frozenset({"invalid_api_key", "model_not_found", "unsupported_country_region_territory"})
OF_THE_SIZE = frozenset({"max_tokens_per_request", "array_above_max_length"})
# Messages without a code, of OpenAI and of servers that speak its API: a field other than the texts is wrong, or the
# request may succeed in parts.
SETTING = re.compile(
    r"dimension|matryoshka|encoding_format|input_type|unrecognized request argument|unknown (field|parameter)"
    r"|extra_forbidden|extra inputs",
    re.IGNORECASE,
)
TOO_LARGE = re.compile(
    r"^request too large|max(imum)? (allowed )?batch size|batch size (limit|exceeds|is invalid)|array too long"
    r"|at most \d+ (items|inputs|texts)|tokens? (in batch|per request|per submitted batch)",
    re.IGNORECASE,
)
# Statuses of these messages.
MALFORMED = (400, 422)
LARGE = (*MALFORMED, 413, 429)


def open_openai(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteEmbedder:  # noqa: ARG001 - keeps no files
    """Open a model of OpenAI, or a deployment at Azure (`api_version`, or an address of Azure).

    docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = ModelOptions("openai", options, OPTIONS)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    base_url = read.text("base_url", BASE_URL)
    version = read.text("api_version")
    # Azure's keys are not bearer tokens.
    headers = {"api-key": key} if is_azure(read) else {"Authorization": f"Bearer {key}"}
    for header, option in (("OpenAI-Organization", "organization"), ("OpenAI-Project", "project")):
        if option in read:
            headers[header] = read.text(option)
    return RemoteEmbedder(
        OpenAIApi(
            read.text("deployment", name),
            path="/embeddings" + (f"?{urlencode({'api-version': version})}" if version else ""),
            dimensions=dimensions if model is None or dimensions != model.dimensions else None,
        ),
        open_client(read, base_url, key=key, headers=headers),
        space=Space(model=name, dimensions=dimensions),
        terms=ProviderTerms(
            items=min(read.number("items") or ITEMS, ITEMS),
            tokens=read.number("tokens") or TOKENS,
            window=model.window if model else WINDOW,
            price=price_of(read, name, model),
            rates=read.rates(),
            matryoshka=model is not None and bool(model.sizes),
            key=KEY,
            exact=True,
        ),
        # All of OpenAI's embedding models share one tokenizer.
        counter=open_counter(read.text("tokenizer"), factor=1) if "tokenizer" in read else Bpe("cl100k_base"),
    )


def is_azure(read: ModelOptions) -> bool:
    """Return whether the options lead to Azure, whose newer addresses need no version."""
    return "api_version" in read or ".azure.com" in read.text("base_url")


class OpenAIApi:
    """OpenAI's format, also of the servers that speak it.

    `dimensions` are sent only if they differ from the model's own: some servers refuse the field.
    """

    def __init__(
        self,
        model: str,
        *,
        path: str = "/embeddings",
        dimensions: int | None = None,
        encoding: str = "base64",
        input_types: bool = False,
    ) -> None:
        """Set the fields of every request; an empty `encoding` leaves it to the server."""
        self.path = path
        self._input_types = input_types
        self._fixed: dict[str, Any] = {"model": model}
        if encoding:
            self._fixed["encoding_format"] = encoding
        if dimensions is not None:
            self._fixed["dimensions"] = dimensions

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Return the body of a request."""
        extra = {"input_type": purpose} if self._input_types else {}
        return {"input": texts, **self._fixed, **extra}

    def read(self, payload: Any, count: int) -> ParsedResponse:  # parsed JSON
        """Parse {data: [{index, embedding}], usage: {prompt_tokens, total_tokens}}."""
        data = payload.get("data") if isinstance(payload, dict) else None
        tokens = usage(payload, "usage", "prompt_tokens")
        if tokens is None:
            tokens = usage(payload, "usage", "total_tokens")
        return ParsedResponse(embeddings=indexed(data, count), tokens=tokens)

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {error: {message, type, param, code}}, and other servers' forms of it."""
        error = response.json.get("error") if isinstance(response.json, dict) else None
        fields = error if isinstance(error, dict) else {}
        codes = {str(fields.get("code")), str(fields.get("type"))}
        message = message_of(response.json)
        large = response.status in LARGE and TOO_LARGE.search(message)
        if codes & OF_THE_ACCOUNT:
            return Refusal(verdict="misconfigured", advice="check the account's plan and credit")
        if codes & OF_THE_SETTINGS:
            return Refusal(verdict="misconfigured")
        if large or OF_THE_SIZE & codes:
            return Refusal(verdict="too_large")
        if response.status in MALFORMED and SETTING.search(message):
            return Refusal(verdict="misconfigured", advice="change the option it names, or leave it out")
        return Refusal()


def open_openai_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> HttpBatchApi | None:
    """Open OpenAI's Batch API; None at Azure, whose deployments and files have other shapes.

    Raises:
        Misconfigured: an option is wrong.
    """
    from flowbed.embedding.batch_api.job_client import HttpBatchApi, remote_behind

    read = ModelOptions("openai", options, OPTIONS)
    remote = remote_behind(embedder)
    if remote is None or is_azure(read):
        return None
    model = MODELS.get(name)
    share = BATCH_SHARE if model is None else model.batch_share
    if share is None:
        return None
    terms = JobTerms(
        texts=JOB_TEXTS,
        bytes=JOB_BYTES,
        tokens=read.number("batch_tokens") or JOB_QUEUE,
        seconds=JOB_SECONDS,
        price=remote.price * share,
        account=jobs_account(read),
        table=read.table,
    )
    return HttpBatchApi(remote, OpenAIJobs(), terms=terms)


def jobs_account(read: ModelOptions) -> str:
    """Name the account whose jobs are listed: an address, a project, and a key, which some servers do without."""
    from flowbed.embedding.wrappers.buckets import bucket_name

    parts = [read.text(name).strip() for name in ("organization", "project", "api_key")]
    address = read.text("base_url", BASE_URL).strip().rstrip("/")
    return bucket_name(read.vendor, "\n".join([address, *parts]))


class OpenAIJobs:
    """OpenAI's input lines and jobs: each line is a whole request."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return {custom_id, method, url, body}."""
        return {"custom_id": name, "method": "POST", "url": JOB_ENDPOINT, "body": request}

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002 - the lines have it
        """Return {endpoint, completion_window}."""
        return {"endpoint": JOB_ENDPOINT, "completion_window": "24h"}


VENDOR = Vendor(
    open=open_openai,
    open_jobs=open_openai_jobs,
    models=MODELS,
    variables={
        "api_key": (KEY,),
        "base_url": ("OPENAI_BASE_URL",),
        "organization": ("OPENAI_ORG_ID",),
        "project": ("OPENAI_PROJECT_ID",),
    },
)
