"""Hugging Face's inference: feature extraction of a model on the hub, or of the user's own endpoint.

Source: https://huggingface.co/docs/inference-providers/tasks/feature-extraction, and the sources of
text-embeddings-inference (limits, types of errors).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from flowbed.embedding.options import COMMON, ModelOptions
from flowbed.embedding.providers.client import (
    ParsedResponse,
    ProviderModel,
    ProviderTerms,
    Refusal,
    RemoteEmbedder,
    chosen_dimensions,
    open_client,
    required_key,
)
from flowbed.embedding.providers.parsing import message_of, positional
from flowbed.embedding.tokens import open_counter
from flowbed.embedding.vendors import Vendor
from flowbed.errors import Transient
from flowbed.http.waits import believed
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.http.client import HttpResponse
    from flowbed.records import Purpose

Pooling = Literal["mean", "cls"]

BASE_URL = "https://router.huggingface.co/hf-inference"
KEY = "HF_TOKEN"
OPTIONS = (
    *COMMON,
    "document_prompt",
    "document_prompt_name",
    "endpoint",
    "pooling",
    "query_prompt",
    "query_prompt_name",
    "revision",
)

# The defaults of text-embeddings-inference.
ITEMS, TOKENS = 32, 16_384

# Popular models, so that their dimensions need not be set; windows without the two special tokens.
MODELS = {
    name: ProviderModel(dimensions=dimensions, window=window, request=TOKENS)
    for name, dimensions, window in (
        ("BAAI/bge-base-en-v1.5", 768, 510),
        ("BAAI/bge-large-en-v1.5", 1_024, 510),
        ("BAAI/bge-m3", 1_024, 8_190),
        ("BAAI/bge-small-en-v1.5", 384, 510),
        ("intfloat/e5-large-v2", 1_024, 510),
        ("intfloat/multilingual-e5-large", 1_024, 510),
        ("sentence-transformers/all-MiniLM-L6-v2", 384, 254),
        ("sentence-transformers/all-mpnet-base-v2", 768, 382),
        ("thenlper/gte-large", 1_024, 510),
    )
}

TOO_LARGE = re.compile(r"batch size \d+ > maximum allowed batch size|length limit exceeded", re.IGNORECASE)
NOT_SERVED = re.compile(r"model .{0,120}(not supported|not found|does not exist)", re.IGNORECASE)
UNAVAILABLE = 503
DEPTH_OF_TOKENS = 2


def open_huggingface(name: str, *, cache: Path, options: Mapping[str, str]) -> RemoteEmbedder:  # noqa: ARG001 - keeps no files
    """Open a model of the hub; with the option `endpoint`, at that address. docs/providers.md lists the `options`.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = ModelOptions("huggingface", options, OPTIONS)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    pooling: Pooling = "cls" if read.choice("pooling", ("mean", "cls")) == "cls" else "mean"
    prompts = read.prompts()
    names = {
        purpose: read.text(f"{purpose}_prompt_name")
        for purpose in ("document", "query")
        if f"{purpose}_prompt_name" in read
    }
    return RemoteEmbedder(
        HuggingFaceApi(
            "" if "endpoint" in read else f"/models/{quote(name)}/pipeline/feature-extraction",
            pooling=pooling,
            prompt_names=names,
        ),
        open_client(read, read.text("endpoint") or read.text("base_url", BASE_URL), key=key),
        space=Space(
            model=name,
            dimensions=dimensions,
            revision=read.text("revision"),
            pooling=pooling,
            prompts=tuple(
                sorted(
                    [*prompts.items(), *((purpose, f"prompt_name:{word}") for purpose, word in names.items())]
                )
            ),
        ),
        terms=ProviderTerms(
            items=read.number("items") or ITEMS,
            tokens=read.number("tokens") or TOKENS,
            window=model.window if model else 0,
            # Billed per second or by subscription, not per token.
            price=read.amount("price") or 0.0,
            rates=read.rates(),
            prompts=prompts,
            key=KEY,
            per_token=True,
        ),
        counter=open_counter(read.text("tokenizer"), factor=1),
    )


class HuggingFaceApi:
    """Hugging Face's API."""

    def __init__(self, path: str, *, pooling: Pooling, prompt_names: Mapping[str, str]) -> None:
        """Take the model's path, the pooling of token vectors, and the names of prompts that the server adds."""
        self.path = path
        self._pooling = pooling
        self._prompt_names = prompt_names

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Return the body of a request."""
        named = self._prompt_names.get(purpose)
        return {
            "inputs": texts,
            "normalize": True,
            "truncate": False,
            **({"prompt_name": named} if named else {}),
        }

    def read(self, payload: Any, count: int) -> ParsedResponse:  # parsed JSON
        """Parse a vector per text, or per token of each; usage is not reported."""
        return ParsedResponse(
            embeddings=[self._pooled(each) for each in positional(payload, count)], tokens=None
        )

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret {error, estimated_time} and {error, error_type}."""
        message = message_of(response.json)
        if response.status == UNAVAILABLE and isinstance(response.json, dict):
            # A model that is loading says how long that takes.
            wait = response.json.get("estimated_time")
            number = isinstance(wait, int | float) and not isinstance(wait, bool)
            return Refusal(verdict="transient", retry_after=believed(wait) if number else None)
        if TOO_LARGE.search(message):
            return Refusal(verdict="too_large")
        if NOT_SERVED.search(message):
            return Refusal(verdict="misconfigured")
        return Refusal()

    def _pooled(self, embedding: Any) -> Any:  # parsed JSON
        import numpy as np

        if not (isinstance(embedding, list) and embedding and isinstance(embedding[0], list)):
            return embedding
        try:
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused later
                tokens = np.array(embedding, dtype=np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise Transient("the response has vectors of different lengths for one text") from error
        if tokens.ndim > DEPTH_OF_TOKENS and tokens.shape[0] == 1:
            tokens = tokens[0]  # a batch of one, as pipelines return it
        if tokens.ndim != DEPTH_OF_TOKENS:
            raise Transient(
                f"the response has an array of {tokens.ndim} dimensions for one text, not a vector"
            )
        pooled = tokens[0] if self._pooling == "cls" else tokens.mean(axis=0, dtype=np.float64)
        return pooled.tolist()


VENDOR = Vendor(open=open_huggingface, models=MODELS, variables={"api_key": (KEY, "HUGGING_FACE_HUB_TOKEN")})
