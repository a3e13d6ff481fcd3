"""Voyage's embeddings API, simulated; its requests and errors differ from OpenAI's.

`/v1/embeddings` and `/v1/rerank`, and for jobs `/v1/files` and `/v1/batches`.

Voyage's tokenizers are not available without a download, so tokens are counted with OpenAI's; the numbers differ.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.testing.simulators.batch_api.jobs import Jobs
from flowbed.testing.simulators.batch_api.voyage_jobs import WINDOW, BatchesApi, error
from flowbed.testing.simulators.reranking import rerank_call, results_of
from flowbed.testing.simulators.tokens import tokenizer
from flowbed.testing.simulators.wire import Answer, Call, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Headers, Operation, Refusal, Request, Vectors

ITEMS = 1000
# The most tokens in one request, by tier of model.
LITE, MIDDLE, LARGE = 1_000_000, 320_000, 120_000
KNOWN = {
    "input",
    "model",
    "input_type",
    "truncation",
    "output_dimension",
    "output_dtype",
    "encoding_format",
}
DTYPES = ("float", "int8", "uint8", "binary", "ubinary")
INPUT_TYPES = ("query", "document")
INT8, UINT8_ZERO = 127, 128
UNAUTHORIZED = 401
RERANKERS = ("rerank-2.5", "rerank-2.5-lite", "rerank-2", "rerank-2-lite")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: the most tokens in a request and in a text, and its dimensions, the default first."""

    request_tokens: int
    tokens: int = 32_000
    widths: tuple[int, ...] = (1024, 256, 512, 2048)


MODELS = {
    "voyage-4-large": Model(request_tokens=LARGE),
    "voyage-4": Model(request_tokens=MIDDLE),
    "voyage-4-lite": Model(request_tokens=LITE),
    "voyage-3.5": Model(request_tokens=MIDDLE),
    "voyage-3.5-lite": Model(request_tokens=LITE),
    "voyage-3-large": Model(request_tokens=LARGE),
    "voyage-code-3": Model(request_tokens=LARGE),
    "voyage-finance-2": Model(request_tokens=LARGE, widths=(1024,)),
    "voyage-law-2": Model(request_tokens=LARGE, tokens=16_000, widths=(1024,)),
    "voyage-2": Model(request_tokens=MIDDLE, tokens=4000, widths=(1024,)),
}


class Voyage:
    """How Voyage parses requests and words answers."""

    name = "voyage"
    positional = False

    def __init__(
        self,
        *,
        models: Mapping[str, Model] = MODELS,
        keys: Collection[str] | None = None,
        batch_seconds: float = 0.0,
        cancel_seconds: float = 0.0,
        queue_tokens: int | None = None,
    ) -> None:
        """Accept these `keys`, or any.

        A job takes `batch_seconds`, and cancelling it `cancel_seconds`; the unfinished jobs of a key may have
        `queue_tokens` together, by default what Voyage allows.
        """
        self._models = models
        self._keys = keys
        self.jobs = Jobs(
            window=WINDOW,
            seconds=batch_seconds,
            cancelling=cancel_seconds,
            queue_tokens=queue_tokens,
            output="batch-output",
        )
        self._batches = BatchesApi(self, self.jobs)

    def key(self, request: Request) -> str:
        """Return the bearer token."""
        return request.bearer

    def read(self, request: Request) -> Call | Answer | Operation:
        """Validate a request as Voyage does."""
        if operation := self._batches.read(request):
            self._admit(request)
            return operation
        if request.path not in ("/v1/embeddings", "/v1/rerank"):
            raise error(404, "Not Found")
        if request.method != "POST":
            raise error(405, "Method Not Allowed")
        self._admit(request)
        payload = fields(request.body)
        if payload is None:
            raise error(422, "The request body is not valid JSON.")
        if request.path == "/v1/rerank":
            return rerank_call(payload, RERANKERS, error)
        return self.call(payload)

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        return call.dimensions or self._models[call.model].widths[0]

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call in its data type, in base64 or in numbers."""
        if call.query:
            data = results_of(call, vectors)
            usage = {"total_tokens": call.tokens}
            return as_json(200, {"object": "list", "data": data, "model": call.model, "usage": usage})
        dtype, _, form = call.form.partition("/")
        rows = quantized(vectors.rows, dtype)
        encoded: Sequence[Any] = list(rows)
        if form == "base64":
            encoded = [binascii.b2a_base64(row.tobytes(), newline=False).decode() for row in rows]
        data = [
            {"object": "embedding", "embedding": each, "index": label}
            for label, each in zip(vectors.labels, encoded, strict=True)
        ]
        usage = {"total_tokens": call.tokens}
        return as_json(200, {"object": "list", "data": data, "model": call.model, "usage": usage})

    def refuse(self, refusal: Refusal, request: Request) -> Answer:  # noqa: ARG002 - the seam hands it over
        """Word a refusal as Voyage does."""
        if refusal.reason == "quota":
            return error(
                429, "You have used up the free tokens of this account; add a payment method."
            ).answer
        if refusal.reason == "rate_limited":
            return error(429, _limited(refusal.room)).answer
        if refusal.status == UNAUTHORIZED:
            return error(401, "Provided API key is invalid.").answer
        return error(refusal.status, "A fault to order.").answer

    def standing(self, rooms: Sequence[Room]) -> Headers:  # noqa: ARG002 - the seam hands it over
        """Return no headers: Voyage has none for rate limits."""
        return ()

    def _admit(self, request: Request) -> None:
        if not request.bearer or (self._keys is not None and request.bearer not in self._keys):
            raise error(401, "Provided API key is invalid.")

    def call(self, payload: dict[str, Any]) -> Call:
        """Validate the fields of an embeddings request.

        Raises:
            VendorError: something is wrong with them.
        """
        unknown = sorted(payload.keys() - KNOWN)
        if unknown:
            raise error(400, f"Argument '{unknown[0]}' is not supported by our API.")
        name = payload.get("model")
        if not isinstance(name, str) or name not in self._models:
            raise error(400, f"Model {name} is not supported. Supported models are {sorted(self._models)}.")
        model = self._models[name]
        input_type = _one_of(payload, "input_type", INPUT_TYPES) or ""
        # Other APIs call it "float"; Voyage refuses that word.
        form = _one_of(payload, "encoding_format", ("base64",)) or "float"
        dtype = _one_of(payload, "output_dtype", DTYPES) or "float"
        width = _one_of(payload, "output_dimension", model.widths)
        truncation = payload.get("truncation", True)
        if not isinstance(truncation, bool):
            raise error(400, f"Value '{truncation}' supplied for argument 'truncation' is not valid.")
        texts = _texts(payload.get("input"))
        tokens = _tokens(texts, name, model, truncation=truncation)
        return Call(
            model=name,
            texts=texts,
            tokens=tokens,
            form=f"{dtype}/{form}",
            input_type=input_type,
            dimensions=width,
        )


def quantized(rows: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Convert vectors to one of Voyage's data types."""
    match dtype:
        case "int8":
            return np.round(rows * INT8).astype(np.int8)
        case "uint8":
            return (np.round(rows * INT8) + UINT8_ZERO).astype(np.uint8)
        case "binary":  # eight signs in a byte, as int8
            return (np.packbits(rows > 0, axis=1).astype(np.int16) - UINT8_ZERO).astype(np.int8)
        case "ubinary":
            return np.packbits(rows > 0, axis=1)
    return rows.astype("<f4", copy=False)


def _texts(payload: Any) -> list[str]:  # any JSON value
    texts = [payload] if isinstance(payload, str) else payload
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise error(400, "Argument 'input' must be a string or a list of strings.")
    if not texts or not all(texts):
        raise error(400, "Input cannot contain empty strings or empty lists.")
    if len(texts) > ITEMS:
        raise error(400, f"The batch size limit is {ITEMS}. Your batch size is {len(texts)}.")
    return texts


def _tokens(texts: Sequence[str], name: str, model: Model, *, truncation: bool) -> int:
    """Count the embedded tokens of the texts: texts that are too long are truncated."""
    counts = [tokenizer().count(text) for text in texts]
    too_long = [place for place, count in enumerate(counts) if count > model.tokens]
    if too_long and not truncation:
        raise error(
            400,
            f"Request to model '{name}' failed. The example at index {too_long[0]} in your batch has too many tokens "
            f"and does not fit into the model's context window of {model.tokens} tokens. Please lower the number of "
            "tokens in the listed example(s) or use truncation.",
        )
    total = sum(min(count, model.tokens) for count in counts)
    if total > model.request_tokens:
        raise error(
            400,
            f"Request to model '{name}' failed. The max allowed tokens per submitted batch is {model.request_tokens}. "
            f"Your batch has {total} tokens after truncation. Please lower the number of tokens in the batch.",
        )
    return total


def _one_of(payload: dict[str, Any], name: str, values: Sequence[Any]) -> Any:  # one of the values
    value = payload.get(name)
    if value is not None and (isinstance(value, bool) or value not in values):
        accepted = ", ".join(repr(each) for each in (*values, None))
        message = f"Value '{value}' supplied for argument '{name}' is not valid -- accepted values are [{accepted}]."
        raise error(400, message)
    return value


def _limited(room: Room | None) -> str:
    if room is None:
        return "Rate limit exceeded. Please try again later."
    return (
        f"Rate limit exceeded: {room.limit} {room.unit} per minute, and this request asked for {room.asked}."
    )
