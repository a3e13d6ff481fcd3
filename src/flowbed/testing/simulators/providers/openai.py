"""OpenAI's embeddings API, simulated: `/v1/embeddings`, `/v1/models`, and for jobs `/v1/files` and `/v1/batches`.

Limits, errors and headers are as documented or observed. If neither is known, an error has the right status and
shape, and wording of our own.
"""

from __future__ import annotations

import binascii
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flowbed.testing.simulators.batch_api.jobs import Jobs
from flowbed.testing.simulators.batch_api.openai_jobs import WINDOW, BatchesApi
from flowbed.testing.simulators.providers.openai_limits import limited, standing
from flowbed.testing.simulators.tokens import is_token, tokenizer
from flowbed.testing.simulators.wire import Answer, Call, VendorError, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Headers, Operation, Refusal, Request, Vectors

ITEMS = 2048
TOKENS = 8192
REQUEST_TOKENS = 300_000
FIELDS = {"input", "model", "dimensions", "encoding_format", "user"}
FORMS = ("float", "base64")
INVALID_INPUT = (
    "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
)
CREATED = 1_705_948_997  # creation time of text-embedding-3-small according to OpenAI
UNAUTHORIZED, SERVER_ERROR = 401, 500


@dataclass(frozen=True, kw_only=True)
class Model:
    """One embedding model; a `reducible` one accepts fewer `dimensions`; `tokens` is the longest text."""

    dimensions: int
    reducible: bool = True
    tokens: int = TOKENS


MODELS = {
    "text-embedding-3-small": Model(dimensions=1536),
    "text-embedding-3-large": Model(dimensions=3072),
    "text-embedding-ada-002": Model(dimensions=1536, reducible=False),
}


class OpenAI:
    """How OpenAI parses requests and words answers."""

    name = "openai"
    positional = False

    def __init__(
        self,
        *,
        models: Mapping[str, Model] = MODELS,
        keys: Collection[str] | None = None,
        strict: bool = True,
        batch_seconds: float = 0.0,
        cancel_seconds: float = 0.0,
        queue_tokens: int | None = None,
    ) -> None:
        """Accept these `keys`, or any; with `strict` off, ignore unknown fields.

        A job takes `batch_seconds`, and cancelling it `cancel_seconds`; the unfinished jobs of a key may have
        `queue_tokens` together, for one model.
        """
        self.models = models
        self._keys = keys
        self._strict = strict
        self._numbers = itertools.count(1)
        self.jobs = Jobs(
            window=WINDOW,
            seconds=batch_seconds,
            cancelling=cancel_seconds,
            queue_tokens=queue_tokens,
            output="batch_output",
        )
        self._batches = BatchesApi(self, self.jobs)

    def key(self, request: Request) -> str:
        """Return the bearer token."""
        return request.bearer

    def read(self, request: Request) -> Call | Answer | Operation:
        """Validate a request as OpenAI does."""
        self._admit(request)
        if operation := self._batches.read(request):
            return operation
        match request.method, request.path:
            case "POST", "/v1/embeddings":
                return self.judge(request.body)
            case "GET", "/v1/models":
                listed = [self._model(name) for name in self.models]
                return as_json(200, {"object": "list", "data": listed}, self.signed())
            case "GET", path if path.startswith("/v1/models/"):
                name = unquote(path.removeprefix("/v1/models/"))
                if name not in self.models:
                    raise self.error(
                        404, f"The model '{name}' does not exist", param="model", code="model_not_found"
                    )
                return as_json(200, self._model(name), self.signed())
            case method, path if path in {"/v1/embeddings", "/v1/models"}:
                raise self.error(
                    405, f"Not allowed to {method} on {path} (HINT: Perhaps you meant to use another method?)"
                )
        raise self.error(404, f"Invalid URL ({request.method} {request.path})")

    def judge(self, content: bytes, deployed: str | None = None) -> Call:
        """Validate the body of an embeddings request; its model is the `deployed` one, if given.

        Raises:
            VendorError: something is wrong with it.
        """
        return self.call(self._fields(content), deployed)

    def call(self, payload: dict[str, Any], deployed: str | None = None) -> Call:
        """Validate the fields of an embeddings request, as `judge` does its body."""
        self._know(payload)
        name = deployed or payload.get("model")
        if not isinstance(name, str) or not name:
            raise self.error(400, "you must provide a model parameter")
        if name not in self.models:
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise self.error(404, message, code="model_not_found")
        form = payload.get("encoding_format", "float")
        if form not in FORMS:
            raise self.error(
                400, f"{form!r} is not one of {FORMS} - 'encoding_format'", param="encoding_format"
            )
        if not isinstance(payload.get("user", ""), str):
            raise self.error(400, f"{payload['user']!r} is not of type 'string' - 'user'", param="user")
        model = self.models[name]
        dimensions = self._dimensions(payload.get("dimensions"), model)
        texts, tokens = self._inputs(payload.get("input"))
        self._fit(tokens, model)
        return Call(model=name, texts=texts, tokens=sum(tokens), form=form, dimensions=dimensions)

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        return call.dimensions or self.models[call.model].dimensions

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call, in base64 or in numbers."""
        rows = vectors.rows.astype("<f4", copy=False)
        encoded: Sequence[Any] = list(rows)
        if call.form == "base64":
            encoded = [binascii.b2a_base64(row.tobytes(), newline=False).decode() for row in rows]
        data = [
            {"object": "embedding", "index": label, "embedding": each}
            for label, each in zip(vectors.labels, encoded, strict=True)
        ]
        usage = {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
        signed = ((b"openai-model", call.model.encode()), *self.signed())
        return as_json(200, {"object": "list", "data": data, "model": call.model, "usage": usage}, signed)

    def refuse(self, refusal: Refusal, request: Request) -> Answer:
        """Word a refusal as OpenAI does."""
        if refusal.reason == "quota":
            return self.error(
                429,
                "You exceeded your current quota, please check your plan and billing details. For more information on "
                "this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
                kind="insufficient_quota",
                code="insufficient_quota",
            ).answer
        if refusal.reason == "rate_limited":
            unit = refusal.room.unit if refusal.room else "requests"
            return self.error(429, limited(refusal), kind=unit, code="rate_limit_exceeded").answer
        if refusal.status == UNAUTHORIZED:
            return self._unauthorized(self.key(request)).answer
        if refusal.status < SERVER_ERROR:
            return self.error(refusal.status, "A fault to order.").answer
        return self.error(
            refusal.status,
            "The server had an error while processing your request. Sorry about that!",
            kind="server_error",
        ).answer

    def standing(self, rooms: Sequence[Room]) -> Headers:
        """Return what is left of every limit and when to retry, to the millisecond."""
        return standing(rooms)

    def error(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> VendorError:
        """Make an error of OpenAI's shape."""
        payload = {"message": message, "type": kind, "param": param, "code": code}
        return VendorError(as_json(status, {"error": payload}, self.signed()))

    def _admit(self, request: Request) -> None:
        key = self.key(request)
        if not key or (self._keys is not None and key not in self._keys):
            raise self._unauthorized(key)

    def _unauthorized(self, key: str) -> VendorError:
        if not key:
            return self.error(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        return self.error(
            401,
            f"Incorrect API key provided: {'*' * 8}{key[-4:]}. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )

    def _fields(self, content: bytes) -> dict[str, Any]:
        """Parse the fields of a body; null means absent."""
        payload = fields(content)
        if payload is None:
            raise self.error(
                400,
                "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.",
            )
        return payload

    def _know(self, payload: dict[str, Any]) -> None:
        unknown = sorted(payload.keys() - FIELDS)
        if unknown and self._strict:
            raise self.error(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")

    def _dimensions(self, payload: Any, model: Model) -> int | None:  # any JSON value
        if payload is None:
            return None
        if not model.reducible:
            raise self.error(400, "This model does not support specifying dimensions.")
        if type(payload) is not int:
            raise self.error(400, f"{payload!r} is not of type 'integer' - 'dimensions'", param="dimensions")
        if not 1 <= payload <= model.dimensions:
            message = f"Invalid value for 'dimensions' = {payload}. Must be between 1 and {model.dimensions}."
            raise self.error(400, message, param="dimensions")
        return payload

    def _inputs(self, payload: Any) -> tuple[list[str], list[int]]:  # any JSON value
        """Parse `input`: the text of each, and its number of tokens."""
        if isinstance(payload, str) or (isinstance(payload, list) and payload and type(payload[0]) is int):
            payload = [payload]
        if not isinstance(payload, list) or not payload:
            raise self.error(400, INVALID_INPUT)
        if len(payload) > ITEMS:
            message = (
                f"Invalid 'input': array too long. Expected an array with maximum length {ITEMS}, but got an array "
                f"with length {len(payload)} instead."
            )
            raise self.error(400, message, param="input", code="array_above_max_length")
        if all(isinstance(each, str) and each for each in payload):
            count = tokenizer().count
            return payload, [count(each) for each in payload]
        if all(isinstance(each, list) and each and all(map(is_token, each)) for each in payload):
            return [_text(each) for each in payload], [len(each) for each in payload]
        raise self.error(400, INVALID_INPUT)

    def _fit(self, tokens: Sequence[int], model: Model) -> None:
        if (longest := max(tokens)) > model.tokens:
            raise self.error(
                400,
                f"This model's maximum context length is {model.tokens} tokens, however you requested {longest} tokens "
                f"({longest} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
            )
        if (total := sum(tokens)) > REQUEST_TOKENS:
            raise self.error(
                400,
                f"Requested {total} tokens, max {REQUEST_TOKENS} tokens per request",
                kind="max_tokens_per_request",
                code="max_tokens_per_request",
            )

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}

    def signed(self) -> Headers:
        """Return the headers of every answer."""
        return (
            (b"openai-organization", b"simulated"),
            (b"openai-processing-ms", b"1"),
            (b"openai-version", b"2020-10-01"),
            (b"x-request-id", b"req_%032x" % next(self._numbers)),
        )


def _text(tokens: list[int]) -> str:
    """Return the text of tokens, so that they get its vector; half a character has its own."""
    text = tokenizer().decode(tokens)
    return f"tokens {tokens}" if text is None else text
