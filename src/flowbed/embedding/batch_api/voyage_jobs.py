"""Voyage's Batch API: OpenAI's, but that lines hold texts alone, and all else is said once, of the job.

Source: https://docs.voyageai.com/docs/batch-inference and the references of batches and of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.embedding.batch_api import JobTerms
from flowbed.embedding.batch_api.job_client import Jobs, remote_behind
from flowbed.embedding.options import Options
from flowbed.embedding.providers.prices import PRICES
from flowbed.embedding.providers.voyage import OPTIONS
from flowbed.embedding.wrappers.limits import bucket_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.embedding import Embedder

ENDPOINT = "/v1/embeddings"
TEXTS, SECONDS = 100_000, 43_200
# The guide names no limit of a file (as of 2026-11-21; 1 GB is said elsewhere, unverified): what OpenAI takes, it will.
BYTES = 200_000_000
# Tokens of all jobs of an organization together. It may have 100 jobs at once: the next is answered with 429.
QUEUE = 1_000_000_000


def open_voyage_jobs(name: str, embedder: Embedder, *, options: Mapping[str, str]) -> Jobs | None:
    """Open Voyage's Batch API; None for models that it does not run.

    Raises:
        Misconfigured: an option is wrong.
    """
    read = Options("voyage", options, OPTIONS)
    remote = remote_behind(embedder)
    share = PRICES[name].batch if name in PRICES else None
    if remote is None or share is None:
        return None
    return Jobs(
        remote,
        VoyageForm(),
        terms=JobTerms(
            texts=TEXTS,
            bytes=BYTES,
            tokens=read.number("batch_tokens") or QUEUE,
            seconds=SECONDS,
            price=remote.price * share,
            account=bucket_name(
                "voyage", f"{read.text('base_url').strip().rstrip('/')} {read.text('api_key').strip()}"
            ),
        ),
    )


class VoyageForm:
    """Lines hold texts alone."""

    def line(self, name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write {custom_id, body: {input}}."""
        return {"custom_id": name, "body": {"input": request["input"]}}

    def job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write {endpoint, completion_window, request_params}."""
        params = {field: value for field, value in request.items() if field != "input"}
        return {"endpoint": ENDPOINT, "completion_window": "12h", "request_params": params}
