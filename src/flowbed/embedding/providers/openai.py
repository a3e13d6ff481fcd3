"""OpenAI's embeddings, and Azure's of the same models.

Source: https://platform.openai.com/docs/api-reference/embeddings (limits, dimensions, errors).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

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
from flowbed.embedding.tokens import Bpe, open_counter
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.http.client import Answer
    from flowbed.records import Purpose

BASE_URL = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
OPTIONS = (*COMMON, "api_version", "batch_tokens", "deployment", "organization", "project")

ITEMS = 2_048
# Of all texts of a request together; and of one text.
TOKENS, WINDOW = 300_000, 8_192

MODELS = {
    "text-embedding-3-small": Model(dimensions=1_536, window=WINDOW, request=TOKENS, sizes=range(1, 1_537)),
    "text-embedding-3-large": Model(dimensions=3_072, window=WINDOW, request=TOKENS, sizes=range(1, 3_073)),
    "text-embedding-ada-002": Model(dimensions=1_536, window=WINDOW, request=TOKENS),
}

# Codes of errors that no other text and no later time would change.
OF_THE_ACCOUNT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
OF_THE_SETTINGS = frozenset({"invalid_api_key", "model_not_found", "unsupported_country_region_territory"})
OF_THE_SIZE = frozenset({"max_tokens_per_request", "array_above_max_length"})
# What an error that has no code says, by OpenAI and the servers that speak its API: that a field is at fault which is
# no text, or that the request may pass in parts.
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
# The statuses in which either is told.
MALFORMED = (400, 422)
LARGE = (*MALFORMED, 413, 429)


def open_openai(name: str, *, cache: Path, options: Mapping[str, str]) -> Remote:  # noqa: ARG001 - keeps no files
    """Open a model of OpenAI; with `api_version`, or at an address of Azure, of a deployment there.

    docs/providers.md tells what `options` there are.

    Raises:
        Misconfigured: an option is wrong, or there is no key.
    """
    read = Options("openai", options, OPTIONS)
    model = MODELS.get(name)
    dimensions = chosen_dimensions(read, name, model)
    key = required_key(read, KEY)
    base_url = read.text("base_url", BASE_URL)
    version = read.text("api_version")
    # Azure has no bearer keys.
    headers = {"api-key": key} if is_azure(read) else {"Authorization": f"Bearer {key}"}
    for header, option in (("OpenAI-Organization", "organization"), ("OpenAI-Project", "project")):
        if option in read:
            headers[header] = read.text(option)
    return Remote(
        OpenAIApi(
            read.text("deployment", name),
            path="/embeddings" + (f"?{urlencode({'api-version': version})}" if version else ""),
            dimensions=dimensions if model is None or dimensions != model.dimensions else None,
        ),
        open_provider(read, base_url, key=key, headers=headers),
        space=Space(model=name, dimensions=dimensions),
        terms=Terms(
            items=min(read.number("items") or ITEMS, ITEMS),
            tokens=read.number("tokens") or TOKENS,
            window=model.window if model else WINDOW,
            price=price_of(read, name),
            rates=read.rates(),
            matryoshka=model is not None and bool(model.sizes),
            key=KEY,
            exact=True,
        ),
        # All of OpenAI's embedding models read text with the same tokenizer.
        counter=open_counter(read.text("tokenizer"), factor=1) if "tokenizer" in read else Bpe("cl100k_base"),
    )


def is_azure(read: Options) -> bool:
    """Tell whether options lead to Azure, one of whose newer addresses needs no version."""
    return "api_version" in read or ".azure.com" in read.text("base_url")


class OpenAIApi:
    """OpenAI's API, and that of the servers that speak it.

    `dimensions` are asked for only where they are not the model's own: some servers refuse the word.
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
        """Take what stands in every request; an empty `encoding` leaves it to the server."""
        self.path = path
        self._input_types = input_types
        self._always: dict[str, Any] = {"model": model}
        if encoding:
            self._always["encoding_format"] = encoding
        if dimensions is not None:
            self._always["dimensions"] = dimensions

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Write a request."""
        extra = {"input_type": purpose} if self._input_types else {}
        return {"input": texts, **self._always, **extra}

    def read(self, payload: Any, count: int) -> Read:  # as JSON has it
        """Read {data: [{index, embedding}], usage: {prompt_tokens, total_tokens}}."""
        data = payload.get("data") if isinstance(payload, dict) else None
        tokens = usage(payload, "usage", "prompt_tokens")
        if tokens is None:
            tokens = usage(payload, "usage", "total_tokens")
        return Read(embeddings=indexed(data, count), tokens=tokens)

    def refused(self, answer: Answer) -> Refused:
        """Read {error: {message, type, param, code}}, and the forms that other servers have for it."""
        error = answer.json.get("error") if isinstance(answer.json, dict) else None
        fields = error if isinstance(error, dict) else {}
        codes = {str(fields.get("code")), str(fields.get("type"))}
        said = message_of(answer.json)
        large = answer.status in LARGE and TOO_LARGE.search(said)
        if codes & OF_THE_ACCOUNT:
            return Refused(verdict="misconfigured", advice="look at the account's plan and credit")
        if codes & OF_THE_SETTINGS:
            return Refused(verdict="misconfigured")
        if large or OF_THE_SIZE & codes:
            return Refused(verdict="too_large")
        if answer.status in MALFORMED and SETTING.search(said):
            return Refused(verdict="misconfigured", advice="change the option that it names, or leave it out")
        return Refused()
