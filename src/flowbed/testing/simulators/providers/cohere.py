"""Cohere's API (v2), simulated: `/v2/embed`, whose vectors have no index and are grouped by data type; `/v2/rerank`.

Cohere's tokenizers are not available without a download, so tokens are counted with OpenAI's; the numbers differ.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.providers.voyage import quantized
from flowbed.testing.simulators.reranking import rerank_call, results_of
from flowbed.testing.simulators.tokens import tokenizer
from flowbed.testing.simulators.wire import Answer, Call, VendorError, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Headers, Refusal, Request, Vectors

ITEMS = 96
INPUT_TYPES = ("search_document", "search_query", "classification", "clustering")
FORMS = ("float", "int8", "uint8", "binary", "ubinary")
TRUNCATE = ("NONE", "START", "END")
KNOWN = {
    "model",
    "texts",
    "input_type",
    "embedding_types",
    "output_dimension",
    "truncate",
    "max_tokens",
    "priority",
}
UNAUTHORIZED = 401
RERANKERS = ("rerank-v3.5", "rerank-english-v3.0", "rerank-multilingual-v3.0")
SEARCHED = 100  # texts that one search unit pays for


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: its dimensions, the default first, and the longest text in tokens."""

    widths: tuple[int, ...]
    tokens: int = 512


MODELS = {
    "embed-v4.0": Model(widths=(1536, 256, 512, 1024), tokens=128_000),
    "embed-english-v3.0": Model(widths=(1024,)),
    "embed-multilingual-v3.0": Model(widths=(1024,)),
    "embed-english-light-v3.0": Model(widths=(384,)),
    "embed-multilingual-light-v3.0": Model(widths=(384,)),
}


class Cohere:
    """How Cohere parses requests and words answers."""

    name = "cohere"
    positional = True
    jobs: None = None  # its Batch API is not simulated

    def __init__(self, *, models: Mapping[str, Model] = MODELS, keys: Collection[str] | None = None) -> None:
        """Accept these `keys`, or any."""
        self._models = models
        self._keys = keys
        self._numbers = itertools.count(1)

    def key(self, request: Request) -> str:
        """Return the bearer token."""
        return request.bearer

    def read(self, request: Request) -> Call | Answer:
        """Validate a request as Cohere does."""
        if request.path not in ("/v2/embed", "/v2/rerank"):
            raise _error(404, "404 page not found")
        if request.method != "POST":
            raise _error(405, "method not allowed")
        if not request.bearer:
            raise _error(401, "no api key supplied")
        if self._keys is not None and request.bearer not in self._keys:
            raise _error(401, "invalid api token")
        payload = fields(request.body)
        if payload is None:
            raise _error(400, "invalid json syntax")
        if request.path == "/v2/rerank":
            return rerank_call(payload, RERANKERS, _error)
        return self._judge(payload)

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        return call.dimensions or self._models[call.model].widths[0]

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call: a list of vectors for each requested data type, and the texts."""
        if call.query:
            return self._reranked(call, vectors)
        embeddings = {form: list(quantized(vectors.rows, form)) for form in call.form.split(",")}
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": call.tokens}}
        body = {
            "id": f"00000000-0000-4000-8000-{next(self._numbers):012x}",
            "embeddings": embeddings,
            "texts": list(call.texts),
            "meta": meta,
            "response_type": "embeddings_by_type",
        }
        return as_json(200, body)

    def _reranked(self, call: Call, vectors: Vectors) -> Answer:
        units = -(-len(call.texts) // SEARCHED)
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": units}}
        name = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        return as_json(200, {"id": name, "results": results_of(call, vectors), "meta": meta})

    def refuse(self, refusal: Refusal, request: Request) -> Answer:  # noqa: ARG002 - the seam hands it over
        """Word a refusal as Cohere does."""
        if refusal.reason == "quota":
            return _error(402, "please add or update your payment method to continue").answer
        if refusal.reason == "rate_limited":
            return _error(429, _limited(refusal.room)).answer
        if refusal.status == UNAUTHORIZED:
            return _error(401, "invalid api token").answer
        return _error(refusal.status, "a fault to order").answer

    def standing(self, rooms: Sequence[Room]) -> Headers:  # noqa: ARG002 - the seam hands it over
        """Return no headers: Cohere has none for rate limits."""
        return ()

    def _judge(self, payload: dict[str, Any]) -> Call:
        unknown = sorted(payload.keys() - KNOWN)
        if unknown:
            raise _error(
                400, f"invalid request: unknown field: parameter '{unknown[0]}' is not a valid field"
            )
        name = payload.get("model")
        if not isinstance(name, str) or not name:
            raise _error(400, "invalid request: model is required")
        if name not in self._models:
            raise _error(
                404,
                f"model '{name}' not found, make sure the correct model ID was used and that you have access to the "
                "model.",
            )
        model = self._models[name]
        input_type = payload.get("input_type")
        if input_type not in INPUT_TYPES:
            raise _error(400, "invalid request: valid input_type must be provided with the provided model")
        forms = payload.get("embedding_types", ["float"])
        if not isinstance(forms, list) or not forms or not all(form in FORMS for form in forms):
            raise _error(400, f"invalid request: embedding_types must be a list of: {', '.join(FORMS)}")
        texts = _texts(payload.get("texts"))
        return Call(
            model=name,
            texts=texts,
            tokens=_tokens(texts, payload, model),
            form=",".join(dict.fromkeys(forms)),
            input_type=input_type,
            dimensions=_width(payload, name, model),
        )


def _texts(payload: Any) -> list[str]:  # any JSON value
    if not isinstance(payload, list) or not payload or not all(isinstance(text, str) for text in payload):
        raise _error(400, "invalid request: texts must be a list of strings")
    if len(payload) > ITEMS:
        raise _error(
            400, f"invalid request: total number of texts must be at most {ITEMS} - received {len(payload)}"
        )
    if not all(payload):
        raise _error(400, "invalid request: all elements in texts must be non-empty strings")
    return payload


def _width(payload: dict[str, Any], name: str, model: Model) -> int | None:
    width = payload.get("output_dimension")
    if width is None:
        return None
    if len(model.widths) == 1:
        raise _error(400, f"invalid request: output_dimension is not supported by model '{name}'")
    if isinstance(width, bool) or width not in model.widths:
        raise _error(400, f"invalid request: output_dimension must be one of {sorted(model.widths)}")
    return int(width)


def _tokens(texts: Sequence[str], payload: dict[str, Any], model: Model) -> int:
    """Count the embedded tokens of the texts: texts that are too long count in part."""
    truncate = payload.get("truncate", "END")
    if truncate not in TRUNCATE:
        raise _error(400, f"invalid request: truncate must be one of {', '.join(TRUNCATE)}")
    most = payload.get("max_tokens", model.tokens)
    if type(most) is not int or most < 1:
        raise _error(400, "invalid request: max_tokens must be a positive number")
    most = min(most, model.tokens)
    counts = [tokenizer().count(text) for text in texts]
    if truncate == "NONE" and max(counts) > most:
        raise _error(
            400, f"invalid request: too many tokens: total number of tokens in a text must be at most {most}"
        )
    return sum(min(count, most) for count in counts)


def _limited(room: Room | None) -> str:
    if room is None:
        return "You are past the per minute request limit, please wait and try again later."
    return f"rate limit exceeded, limit is {room.limit} {room.unit} per minute"


def _error(status: int, message: str) -> VendorError:
    return VendorError(as_json(status, {"message": message}))
