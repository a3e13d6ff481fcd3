"""An embedder that calls a provider over HTTP; what differs between vendors is their `VendorApi`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.embedding.providers.errors import ResponseErrors
from flowbed.embedding.providers.parsing import matrix, normalised
from flowbed.embedding.providers.refusals import (
    SERVERS_FAULT,
    STATUSES,
    Refusal,
    Verdict,
    error_within,
)
from flowbed.embedding.splitting import call_in_parts, halves, split
from flowbed.embedding.tokens import Decodes, FileTokenizer
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.vendors import known_model
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.http.client import HttpClient
from flowbed.records import Embedded, Reading
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding import Rates
    from flowbed.embedding.options import ModelOptions
    from flowbed.embedding.tokens import Counter
    from flowbed.http.client import HttpResponse
    from flowbed.records import Purpose, Space

__all__ = [
    "NUMBER_BYTES",
    "SERVERS_FAULT",
    "STATUSES",
    "ParsedResponse",
    "ProviderModel",
    "ProviderTerms",
    "Refusal",
    "RemoteEmbedder",
    "VendorApi",
    "Verdict",
    "chosen_dimensions",
    "open_client",
    "price_of",
    "required_key",
]

# Most bytes of a response: a number takes at most 24 digits and signs, a comma and as much indentation; an object
# around each vector, and fields around all of them; and the texts, which some providers repeat, with up to 12 bytes for
# a character that is escaped.
NUMBER_BYTES, VECTOR_BYTES, ANSWER_BYTES, ESCAPED_BYTES = 32, 1_024, 2**20, 12
# A gateway lost the provider's response or stopped waiting for it; 520 and 524 are Cloudflare's.
GATEWAYS = frozenset({502, 504, 520, 524})


@dataclass(frozen=True, kw_only=True)
class ParsedResponse:
    """A parsed response: one embedding per text, in their order, and the billed tokens if it says so."""

    embeddings: Sequence[Any]
    tokens: int | None


class VendorApi(Protocol):
    """The request and response format of one vendor."""

    path: str

    def body(self, texts: Sequence[str], purpose: Purpose) -> Mapping[str, Any]:
        """Return the body of a request."""
        ...

    def read(self, payload: Any, count: int) -> ParsedResponse:  # parsed JSON
        """Parse the response for `count` texts.

        Raises:
            Transient: it is not what was requested.
        """
        ...

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret a refusal."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProviderModel:
    """What a vendor publishes of a model.

    `dimensions` of its vectors, and the other `sizes` that can be requested; tokens in a text (`window`, 0 if unknown)
    and in a request; `tokens_per_minute` of one key. `price` is US dollars per million tokens (as of 2026), None if
    unknown or not per token; `batch_share` is the part of it that the Batch API charges, None without one.
    """

    dimensions: int
    window: int
    request: int
    sizes: range | frozenset[int] = frozenset()
    tokens_per_minute: int | None = None
    price: float | None = None
    batch_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProviderTerms:
    """The terms of a provider: texts and tokens per request, tokens per text, dollars per million tokens.

    `prompts` are put in front of texts, by purpose; `key` names the setting of the key. `exact` says that exactly a
    text's own tokens are billed, `per_token` that a response may have a vector for each token.
    """

    items: int
    tokens: int
    window: int
    price: float
    rates: Rates
    matryoshka: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    key: str = "api_key"
    exact: bool = False
    per_token: bool = False


class RemoteEmbedder:
    """An embedder of a provider. A call is split into requests, and answered whole or not at all."""

    def __init__(
        self, api: VendorApi, provider: HttpClient, *, space: Space, terms: ProviderTerms, counter: Counter
    ) -> None:
        """Combine a vendor's format, a client and the terms."""
        self.space = space
        self.items = terms.items
        self.tokens = terms.tokens
        self.price = terms.price
        self.rates = terms.rates
        self.matryoshka = terms.matryoshka
        self.exact = terms.exact and counter.exact
        self.api = api
        self._provider = provider
        self._errors = ResponseErrors(api, provider, model=space.model, key=terms.key)
        self._terms = terms
        self._counter = counter

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none; nothing is cut off.

        Raises:
            Transient: the provider is busy, failing or unreachable, or its response cannot be trusted.
            Rejected: it refuses a text; `inputs` says which, if it does.
            Misconfigured: the key, model, address, dimensions or account cannot be used.
        """
        import numpy as np

        require_unicode(texts)
        if not texts:
            return Embedded(vectors=np.empty((0, self.space.dimensions), dtype=np.float32))
        if "" in texts:
            # Almost all of them refuse it, with one error for all texts of a request.
            empty = [place for place, text in enumerate(texts) if not text]
            raise Rejected(f"{count(len(empty), 'empty text')}, which no provider embeds", inputs=empty)
        prompt = self._terms.prompts.get(purpose, "")
        sent = [prompt + text for text in texts] if prompt else texts
        sizes = self._sizes(sent)
        return await self._in_parts(sent, split(sizes, items=self.items, tokens=self.tokens), purpose)

    def count(self, text: str) -> int:
        """Count tokens: exactly if the model's tokenizer is known, otherwise as an estimate.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        require_unicode([text])
        return self._counter.count(text)

    def read(self, text: str) -> Reading:
        """Break the words that the model's tokenizer would lose, where its file is known.

        Raises:
            Rejected: the text is not valid Unicode.
        """
        require_unicode([text])
        if isinstance(self._counter, FileTokenizer):
            return self._counter.read(text)
        return Reading(sent=text, tokens=self._counter.count(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of the model's own tokens.

        Raises:
            Rejected: they are not a text, or the model's tokenizer is unknown.
        """
        if not isinstance(self._counter, Decodes):
            raise Rejected(f"the tokenizer of {self.space.model} is not available; send the text itself")
        return self._counter.decode(tokens)

    def bill(self, text: str, tokens: int) -> int:
        """Return the tokens billed for a document, its prompt included."""
        prompt = self._terms.prompts.get("document", "")
        return self.count(prompt + text) if prompt else tokens

    @property
    def provider(self) -> HttpClient:
        """The client, for requests other than embedding."""
        return self._provider

    def document_request(self, text: str) -> Mapping[str, Any]:
        """Return the body that requests the vector of one document."""
        return self.api.body([self._terms.prompts.get("document", "") + text], "document")

    def error_of(self, response: HttpResponse) -> Error:
        """Return the error of a refused request that is not about texts."""
        return self._errors.of(response, self._errors.refusal(response), ())

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        await self._provider.aclose()

    def _sizes(self, texts: Sequence[str]) -> list[int]:
        """Measure texts for splitting; refuse those that the provider is known to refuse."""
        window = self._terms.window
        # A text hardly ever has more tokens than bytes (OpenAI's tokenizers never make more): short ones need no
        # counting.
        bytes_of = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        if sum(bytes_of) <= self.tokens and (not window or max(bytes_of) <= window):
            return bytes_of
        sizes = [self._counter.count(text) for text in texts]
        if window and self._counter.exact and max(sizes) > window:
            long = [place for place, size in enumerate(sizes) if size > window]
            raise Rejected(
                f"{count(len(long), 'text')} longer than the {window} tokens that {self.space.model} takes (the "
                f"longest has {max(sizes)}); chunk them smaller",
                inputs=long,
            )
        return sizes

    async def _in_parts(self, texts: Sequence[str], parts: Sequence[slice], purpose: Purpose) -> Embedded:
        if len(parts) == 1:
            return await self._request(texts, purpose)
        return await call_in_parts(parts, lambda part: self._request(texts[part], purpose))

    async def _request(self, texts: Sequence[str], purpose: Purpose) -> Embedded:
        """Send one request; send one that is too large again in halves."""
        response = await self._provider.post(
            self.api.path, self.api.body(texts, purpose), limit=self._most_bytes(texts)
        )
        if not 200 <= response.status < 300:  # noqa: PLR2004 - as HTTP counts
            refused = self._errors.refusal(response)
            if refused.verdict == "too_large" and len(texts) > 1:
                return await self._in_parts(texts, halves(len(texts)), purpose)
            error = self._errors.of(response, refused, texts)
            error.perhaps_billed = response.status in GATEWAYS
            raise error
        if said := error_within(response):
            raise self._errors.within(response, said, texts)
        try:
            read = self._read(response, len(texts))
            vectors = normalised(matrix(read.embeddings, self.space.dimensions))
        except Error as error:
            error.args = (f"{self._provider.label}: {error}",)
            error.perhaps_billed = True
            # Other dimensions are of another model: the setting has to change, even if only some requests get them.
            error.perhaps_input = not isinstance(error, Misconfigured)
            if isinstance(error, Rejected) and len(error.inputs) == len(texts) > 1:
                error.inputs = ()  # one text may have spoilt the vectors of all
            raise
        tokens = read.tokens
        if tokens is None:
            tokens = sum(map(self._counter.count, texts))
        return Embedded(vectors=vectors, tokens=tokens)

    def _most_bytes(self, texts: Sequence[str]) -> int:
        """Return how many bytes the response for these texts can have."""
        vectors = len(texts) + (self.tokens if self._terms.per_token else 0)
        numbers = vectors * self.space.dimensions * NUMBER_BYTES
        return ANSWER_BYTES + numbers + vectors * VECTOR_BYTES + ESCAPED_BYTES * sum(map(len, texts))

    def _read(self, response: HttpResponse, count: int) -> ParsedResponse:
        if response.json is None:
            raise Transient("the response is not JSON, or incomplete")
        return self.api.read(response.json, count)


def open_client(
    options: ModelOptions, base_url: str, *, key: str, headers: Mapping[str, str] | None = None
) -> HttpClient:
    """Open the client of a provider; without `headers` the key is sent as a bearer token.

    Raises:
        Misconfigured: the address, a header or the timeout cannot be used.
    """
    if headers is None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
    return HttpClient(
        base_url,
        vendor=options.vendor,
        table=options.table,
        headers=headers,
        secrets=(key,),
        timeout=options.amount("timeout"),
        proxy=options.text("proxy"),
        no_proxy=options.text("no_proxy"),
    )


def chosen_dimensions(options: ModelOptions, name: str, model: ProviderModel | None) -> int:
    """Return the dimensions of vectors: as the options say, otherwise the model's own.

    Raises:
        Misconfigured: the model is unknown and the options do not say, or it does not have that size.
    """
    requested = options.number("dimensions")
    if model is None:
        if requested is None:
            raise Misconfigured(
                f"model {options.vendor}:{name} is unknown: set the option dimensions to the length of its vectors"
            )
        return requested
    if requested is not None and requested != model.dimensions and requested not in model.sizes:
        raise Misconfigured(
            f"model {options.vendor}:{name} has no vectors of {requested} dimensions; leave the option dimensions out "
            f"for {model.dimensions}"
        )
    return requested or model.dimensions


def required_key(options: ModelOptions, variable: str) -> str:
    """Return the key of a provider that requires one.

    Raises:
        Misconfigured: there is none; the message says where to set it.
    """
    key = options.text("api_key").strip()
    if not key:
        raise Misconfigured(
            f"there is no key for {options.vendor}: set {variable}, or api_key in [providers.{options.table}]"
        )
    return key


def price_of(options: ModelOptions, name: str, model: ProviderModel | None) -> float:
    """Return US dollars per million tokens: as the options say, otherwise as any vendor publishes it.

    Raises:
        Misconfigured: the price is unknown. A model taken for free would come with a surprising bill.
    """
    price = options.amount("price")
    if price is None and (known := model or known_model(name)) is not None:
        price = known.price
    if price is None:
        raise Misconfigured(
            f'the price of model {options.vendor}:{name} is not known: set "{name}" = ..., in US dollars per million '
            "tokens, in [prices]"
        )
    return price
