"""OpenAI's embeddings API, simulated: `/v1/embeddings`, `/v1/models`, and for jobs `/v1/files` and `/v1/batches`.

Limits, errors and headers are those that are documented or were seen; where neither is known, an error is of the right
status and shape, and its words are our own.
"""

from __future__ import annotations

import binascii
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flowbed.testing.simulators.jobs import Jobs
from flowbed.testing.simulators.openai_jobs import WINDOW, BatchesApi
from flowbed.testing.simulators.openai_limits import limited, standing
from flowbed.testing.simulators.tokens import is_token, tokenizer
from flowbed.testing.simulators.wire import Answer, Call, VendorError, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Deed, Headers, Refusal, Request, Vectors

ITEMS = 2048
TOKENS = 8192
REQUEST_TOKENS = 300_000
FIELDS = {"input", "model", "dimensions", "encoding_format", "user"}
FORMS = ("float", "base64")
INVALID_INPUT = (
    "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
)
CREATED = 1_705_948_997  # when OpenAI says that text-embedding-3-small was made
UNAUTHORIZED, SERVER_ERROR = 401, 500


@dataclass(frozen=True, kw_only=True)
class Model:
    """One embedding model; `reducible` takes fewer `dimensions`, `tokens` is the longest text."""

    dimensions: int
    reducible: bool = True
    tokens: int = TOKENS


MODELS = {
    "text-embedding-3-small": Model(dimensions=1536),
    "text-embedding-3-large": Model(dimensions=3072),
    "text-embedding-ada-002": Model(dimensions=1536, reducible=False),
}


class OpenAI:
    """How OpenAI reads requests and words answers."""

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
        """Take these `keys`, or any at all; with `strict` off, fields that OpenAI does not know are passed over.

        A job takes `batch_seconds`, and its cancelling `cancel_seconds`; the unfinished jobs of a key may have
        `queue_tokens` in all for one model.
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
        """Give the bearer token."""
        return request.bearer

    def read(self, request: Request) -> Call | Answer | Deed:
        """Judge a request as OpenAI does."""
        self._admit(request)
        if deed := self._batches.read(request):
            return deed
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
        """Judge the body of an embeddings request; its model is the one that is `deployed`, where that is said.

        Raises:
            VendorError: something is wrong with it.
        """
        return self.call(self._fields(content), deployed)

    def call(self, said: dict[str, Any], deployed: str | None = None) -> Call:
        """Judge the fields of an embeddings request, as `judge` does its body."""
        self._know(said)
        name = deployed or said.get("model")
        if not isinstance(name, str) or not name:
            raise self.error(400, "you must provide a model parameter")
        if name not in self.models:
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise self.error(404, message, code="model_not_found")
        form = said.get("encoding_format", "float")
        if form not in FORMS:
            raise self.error(
                400, f"{form!r} is not one of {FORMS} - 'encoding_format'", param="encoding_format"
            )
        if not isinstance(said.get("user", ""), str):
            raise self.error(400, f"{said['user']!r} is not of type 'string' - 'user'", param="user")
        model = self.models[name]
        dimensions = self._dimensions(said.get("dimensions"), model)
        texts, tokens = self._inputs(said.get("input"))
        self._fit(tokens, model)
        return Call(model=name, texts=texts, tokens=sum(tokens), form=form, dimensions=dimensions)

    def width(self, call: Call) -> int:
        """Tell how many dimensions the vectors of a call have."""
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
        """Tell what is left of every limit, and after how long to come again, to the millisecond."""
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
        said = {"message": message, "type": kind, "param": param, "code": code}
        return VendorError(as_json(status, {"error": said}, self.signed()))

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
        """Read the fields of a body; null is as good as absent."""
        said = fields(content)
        if said is None:
            raise self.error(
                400,
                "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.",
            )
        return said

    def _know(self, said: dict[str, Any]) -> None:
        unknown = sorted(said.keys() - FIELDS)
        if unknown and self._strict:
            raise self.error(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")

    def _dimensions(self, said: Any, model: Model) -> int | None:  # whatever JSON can hold
        if said is None:
            return None
        if not model.reducible:
            raise self.error(400, "This model does not support specifying dimensions.")
        if type(said) is not int:
            raise self.error(400, f"{said!r} is not of type 'integer' - 'dimensions'", param="dimensions")
        if not 1 <= said <= model.dimensions:
            message = f"Invalid value for 'dimensions' = {said}. Must be between 1 and {model.dimensions}."
            raise self.error(400, message, param="dimensions")
        return said

    def _inputs(self, said: Any) -> tuple[list[str], list[int]]:  # whatever JSON can hold
        """Read `input`: the text of each, and how many tokens it has."""
        if isinstance(said, str) or (isinstance(said, list) and said and type(said[0]) is int):
            said = [said]
        if not isinstance(said, list) or not said:
            raise self.error(400, INVALID_INPUT)
        if len(said) > ITEMS:
            message = (
                f"Invalid 'input': array too long. Expected an array with maximum length {ITEMS}, but got an array "
                f"with length {len(said)} instead."
            )
            raise self.error(400, message, param="input", code="array_above_max_length")
        if all(isinstance(each, str) and each for each in said):
            count = tokenizer().count
            return said, [count(each) for each in said]
        if all(isinstance(each, list) and each and all(map(is_token, each)) for each in said):
            return [_text(each) for each in said], [len(each) for each in said]
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
        """Give the headers of every answer."""
        return (
            (b"openai-organization", b"simulated"),
            (b"openai-processing-ms", b"1"),
            (b"openai-version", b"2020-10-01"),
            (b"x-request-id", b"req_%032x" % next(self._numbers)),
        )


def _text(tokens: list[int]) -> str:
    """Give the text of tokens, so that they have its vector; half a character has one of its own."""
    text = tokenizer().decode(tokens)
    return f"tokens {tokens}" if text is None else text
