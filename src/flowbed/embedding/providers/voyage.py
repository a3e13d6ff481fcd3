"""Voyage's embeddings, at Voyage's own address or MongoDB's.

Source: https://docs.voyageai.com/reference/embeddings-api and the package voyageai 0.5.0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flowbed.embedding.options import COMMON, Options
from flowbed.embedding.providers.client import (
    Model,
    Read,
    Refused,
    Remote,
    Terms,
    chosen_dimensions,
    open_provider,
    required_key,
)
from flowbed.embedding.providers.parsing import indexed, message_of, usage
from flowbed.embedding.providers.prices import price_of
from flowbed.embedding.tokens import open_counter
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.http.client import Answer
    from flowbed.records import Purpose

BASE_URL = "https://api.voyageai.com/v1"
# Keys that MongoDB gives out begin so, and are known at its address only.
MONGODB_KEY, MONGODB_URL = "al-", "https://ai.mongodb.com/v1"
KEY = "VOYAGE_API_KEY"
OPTIONS = (*COMMON, "batch_tokens")

ITEMS = 1_000
SIZES = frozenset({256, 512, 1_024, 2_048})
# As the first tier has it; the second has twice as much of everything, the third three times.
REQUESTS_PER_MINUTE = 2_000
# Voyage's tokenizers take up to 1.2 times as many tokens of prose as OpenAI's do. Of code and of mixed scripts it can
# be far more: a request that turns out to be too large is sent in halves.
FACTOR = 1.2

MODELS = {
    "voyage-4-large": Model(
        dimensions=1_024, window=32_000, request=120_000, sizes=SIZES, tokens_per_minute=3_000_000
    ),
    "voyage-4": Model(
        dimensions=1_024, window=32_000, request=320_000, sizes=SIZES, tokens_per_minute=8_000_000
    ),
    "voyage-4-lite": Model(
        dimensions=1_024, window=32_000, request=1_000_000, sizes=SIZES, tokens_per_minute=16_000_000
    ),
    "voyage-3-large": Model(
        dimensions=1_024, window=32_000, request=120_000, sizes=SIZES, tokens_per_minute=3_000_000
    ),
    "voyage-3.5": Model(
        dimensions=1_024, window=32_000, request=320_000, sizes=SIZES, tokens_per_minute=8_000_000
    ),
    "voyage-3.5-lite": Model(
        dimensions=1_024, window=32_000, request=1_000_000, sizes=SIZES, tokens_per_minute=16_000_000
    ),
    "voyage-code-3": Model(
        dimensions=1_024, window=32_000, request=120_000, sizes=SIZES, tokens_per_minute=3_000_000
    ),
    "voyage-finance-2": Model(dimensions=1_024, window=32_000, request=120_000, tokens_per_minute=3_000_000),
    "voyage-law-2": Model(dimensions=1_024, window=16_000, request=120_000, tokens_per_minute=3_000_000),
    "voyage-2": Model(dimensions=1_024, window=4_000, request=320_000, tokens_per_minute=8_000_000),
}
# A model that is not in the table is held to the smallest of these.
SMALLEST = 120_000

# What an error says where a request as a whole is too large, and where some of its texts are.
TOO_LARGE = re.compile(r"max(imum)? allowed tokens per submitted batch|batch size limit", re.IGNORECASE)
TOO_LONG = re.compile(
    r"examples?(?:\(s\))? at ind(?:ex(?:es)?|ices) (\d+(?:(?:,| and|, and) \d+)*)", re.IGNORECASE
)
NO_SUCH_MODEL = re.compile(r"model .{1,80} is not (supported|available)", re.IGNORECASE)
# An account with nothing left, told apart from one that asks too fast.
USED_UP = re.compile(
    r"used up|exceeded .{0,30}quota|insufficient (credit|balance|funds|quota)", re.IGNORECASE
)
BAD_REQUEST, TOO_MANY = 400, 429


def open_voyage(name: str, *, cache: Path, options: Mapping[str, str]) -> Remote:  # noqa: ARG001 - keeps no files
    """Open a model of Voyage.

    docs/providers.md tells what `options` there are.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = Options("voyage", options, OPTIONS)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    base_url = read.text("base_url", MONGODB_URL if key.startswith(MONGODB_KEY) else BASE_URL)
    return Remote(
        VoyageApi(name, dimensions=dimensions if model is None or model.sizes else None),
        open_provider(read, base_url, key=key),
        space=Space(
            model=name,
            dimensions=dimensions,
            # Voyage puts words of its own in front of a text, another for each type.
            prompts=(("document", "input_type:document"), ("query", "input_type:query")),
        ),
        terms=Terms(
            items=min(read.number("items") or ITEMS, ITEMS),
            tokens=read.number("tokens") or (model.request if model else SMALLEST),
            window=model.window if model else 0,
            price=price_of(read, name),
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
        """Take what stands in every request."""
        # Left to itself, it cuts long texts off. "float" is no encoding it knows.
        self._always: dict[str, Any] = {"model": model, "truncation": False, "encoding_format": "base64"}
        if dimensions is not None:
            self._always["output_dimension"] = dimensions

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Write a request."""
        return {"input": texts, "input_type": purpose, **self._always}

    def read(self, payload: Any, count: int) -> Read:  # as JSON has it
        """Read {data: [{index, embedding}], usage: {total_tokens}}."""
        data = payload.get("data") if isinstance(payload, dict) else None
        return Read(embeddings=indexed(data, count), tokens=usage(payload, "usage", "total_tokens"))

    def refused(self, answer: Answer) -> Refused:
        """Read {detail}, which alone tells one bad request from another."""
        said = message_of(answer.json)
        if answer.status == TOO_MANY and USED_UP.search(said):
            return Refused(verdict="misconfigured", advice="look at the account's plan and credit")
        if answer.status != BAD_REQUEST:
            return Refused()
        if found := TOO_LONG.search(said):
            return Refused(verdict="rejected", inputs=tuple(map(int, re.findall(r"\d+", found[1]))))
        if TOO_LARGE.search(said):
            return Refused(verdict="too_large")
        if NO_SUCH_MODEL.search(said):
            return Refused(verdict="misconfigured")
        return Refused()
