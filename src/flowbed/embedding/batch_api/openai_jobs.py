"""OpenAI's Batch API, and that of the servers that speak it.

Source: https://platform.openai.com/docs/guides/batch and the references of batches and files (limits, states, errors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.embedding.batch_api import JobTerms
from flowbed.embedding.batch_api.job_client import Jobs, remote_behind
from flowbed.embedding.options import Options
from flowbed.embedding.providers.compatible import OPTIONS as COMPATIBLE_OPTIONS
from flowbed.embedding.providers.compatible import Same
from flowbed.embedding.providers.openai import BASE_URL, is_azure
from flowbed.embedding.providers.openai import OPTIONS as OPENAI_OPTIONS
from flowbed.embedding.providers.prices import PRICES
from flowbed.embedding.wrappers.limits import bucket_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.embedding import Embedder

TEXTS, BYTES, DAY = 50_000, 200_000_000, 86_400
# Tokens of a model for embeddings that may wait at once in the smallest tier that pays (unverified, 2026-11-21: the
# limits are shown to account holders alone); larger tiers have more.
QUEUE = 3_000_000
# The part of the price where the table does not say: of all of OpenAI's models it is half.
SHARE = 0.5
ENDPOINT = "/v1/embeddings"


def open_openai_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> Jobs | None:
    """Open OpenAI's Batch API; None at Azure, whose deployments and files are of other shapes.

    Raises:
        Misconfigured: an option is wrong.
    """
    read = Options("openai", options, OPENAI_OPTIONS)
    remote = remote_behind(embedder)
    if remote is None or is_azure(read):
        return None
    known = PRICES.get(name)
    share = known.batch if known is not None else SHARE
    if share is None:
        return None
    return Jobs(
        remote,
        OpenAIForm(),
        terms=JobTerms(
            texts=TEXTS,
            bytes=BYTES,
            tokens=read.number("batch_tokens") or QUEUE,
            seconds=DAY,
            price=remote.price * share,
            account=_account(read, "openai"),
        ),
    )


def open_compatible_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> Jobs | None:  # noqa: ARG001
    """Open the Batch API of a server that speaks OpenAI's, where option `batch` says that it has one.

    Raises:
        Misconfigured: an option is wrong.
    """
    read = Options("compatible", options, COMPATIBLE_OPTIONS)
    remote = remote_behind(embedder)
    if remote is None or not read.flag("batch"):
        return None
    share = read.amount("batch_price")
    return Jobs(
        remote,
        OpenAIForm(),
        terms=JobTerms(
            # Of such a server none of this is known: it is taken to be like OpenAI, but for the queue.
            texts=TEXTS,
            bytes=BYTES,
            tokens=read.number("batch_tokens"),
            seconds=DAY,
            price=remote.price * (1.0 if share is None else share),
            account=_account(read, "compatible"),
        ),
        believe=embedder.believe_jobs if isinstance(embedder, Same) else None,
    )


def _account(read: Options, vendor: str) -> str:
    """Name whose jobs are listed: those of a key, in its project, at an address, which may go without any key."""
    said = [read.text(name).strip() for name in ("organization", "project", "api_key")]
    address = read.text("base_url", BASE_URL).strip().rstrip("/")
    return bucket_name(vendor, "\n".join([address, *said]))


class OpenAIForm:
    """Each line says all of what it wants."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write {custom_id, method, url, body}."""
        return {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": request}

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002 - the lines say it
        """Write {endpoint, completion_window}."""
        return {"endpoint": ENDPOINT, "completion_window": "24h"}
