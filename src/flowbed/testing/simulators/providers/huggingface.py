"""Hugging Face's feature extraction, simulated: `/hf-inference/models/ID/pipeline/feature-extraction`.

Answers are bare lists: a vector per text, or, with `per_token`, one per token, as models without pooling return.
There is no usage. Tokens are counted with OpenAI's tokenizer, not with the model's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from flowbed.testing.simulators.tokens import tokenizer
from flowbed.testing.simulators.wire import Answer, Call, VendorError, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Headers, Refusal, Request, Vectors

ITEMS = 32
WINDOW = 300  # seconds: Hugging Face counts requests in windows of five minutes
ROUTE = re.compile(r"/hf-inference/models/(?P<name>[^/]+(?:/[^/]+)?)/pipeline/feature-extraction")
KNOWN = {"inputs", "normalize", "prompt_name", "truncate", "truncation_direction"}
LENGTH = 1.75  # length of vectors if a request asks for them without normalisation
LEFT_OUT = 0.5  # distance of token vectors from their mean
UNAUTHORIZED, UNAVAILABLE = 401, 503


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: `prompts` are the names that it knows; with `per_token` it returns the vectors of tokens."""

    dimensions: int
    tokens: int = 512
    prompts: tuple[str, ...] = ()
    per_token: bool = False


MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": Model(dimensions=384, tokens=256),
    "BAAI/bge-small-en-v1.5": Model(dimensions=384),
    "BAAI/bge-m3": Model(dimensions=1024, tokens=8192),
    "intfloat/multilingual-e5-large": Model(dimensions=1024, prompts=("query", "passage")),
    "google-bert/bert-base-uncased": Model(dimensions=768, per_token=True),
}


class HuggingFace:
    """How Hugging Face parses requests and words answers."""

    name = "huggingface"
    positional = True
    jobs: None = None  # its Batch API is not simulated

    def __init__(self, *, models: Mapping[str, Model] = MODELS, keys: Collection[str] | None = None) -> None:
        """Accept these `keys`, or any."""
        self._models = models
        self._keys = keys

    def key(self, request: Request) -> str:
        """Return the bearer token."""
        return request.bearer

    def read(self, request: Request) -> Call | Answer:
        """Validate a request as Hugging Face does."""
        if not request.bearer or (self._keys is not None and request.bearer not in self._keys):
            raise _error(401, "Invalid username or password.")
        asked = ROUTE.fullmatch(request.path)
        name = unquote(asked["name"]) if asked else ""
        if name not in self._models:
            raise _error(404, "Not Found" if asked is None else f"Model {name} does not exist")
        if request.method != "POST":
            raise _error(405, "Method Not Allowed")
        payload = fields(request.body)
        if payload is None:
            raise _error(422, "Failed to parse the request body as JSON")
        return self._judge(payload, name)

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        return self._models[call.model].dimensions

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call with bare lists: two deep, or three with the vectors of tokens; one less for a single text."""
        form, _, shape = call.form.partition("/")
        rows = vectors.rows if form == "normal" else vectors.rows * np.float32(LENGTH)
        answer: Sequence[Any] = list(rows)
        if self._models[call.model].per_token:
            counts = [tokenizer().count(call.texts[label]) for label in vectors.labels]
            answer = [list(of_tokens(row, count)) for row, count in zip(rows, counts, strict=True)]
        return as_json(200, answer[0] if shape == "one" and answer else answer)

    def refuse(self, refusal: Refusal, request: Request) -> Answer:  # noqa: ARG002 - the seam hands it over
        """Word a refusal as Hugging Face does; a 503 with a retry time is a model that is loading."""
        if refusal.reason == "quota":
            return _error(
                402,
                "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get 20x "
                "more monthly included credits.",
            ).answer
        if refusal.reason == "rate_limited":
            return _error(429, "Rate limit reached. You reached the limit of requests in 5 minutes.").answer
        if refusal.status == UNAUTHORIZED:
            return _error(401, "Invalid username or password.").answer
        if refusal.status == UNAVAILABLE and refusal.retry_after is not None:
            name = refusal.call.model if refusal.call else "?"
            payload = {"error": f"Model {name} is currently loading", "estimated_time": refusal.retry_after}
            return as_json(503, payload)
        return _error(refusal.status, "A fault to order.").answer

    def standing(self, rooms: Sequence[Room]) -> Headers:
        """Return what is left of the requests of a window."""
        headers: list[tuple[bytes, bytes]] = []
        for room in rooms:
            if room.unit == "requests":
                seconds = -(-(room.wait or room.reset) // 1)
                headers += [
                    (b"ratelimit", f'"api";r={room.remaining};t={seconds:.0f}'.encode()),
                    (b"ratelimit-policy", f'"fixed window";"api";q={room.limit * 5};w={WINDOW}'.encode()),
                ]
        return tuple(headers)

    def _judge(self, payload: dict[str, Any], name: str) -> Call:
        model = self._models[name]
        unknown = sorted(payload.keys() - KNOWN)
        if unknown:
            raise _error(422, f"unknown field `{unknown[0]}`")
        prompt = payload.get("prompt_name", "")
        if prompt and prompt not in model.prompts:
            known = ", ".join(model.prompts) or "none"
            raise _error(422, f"`prompt_name` {prompt!r} is not among the prompts of the model: {known}")
        inputs = payload.get("inputs")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text for text in texts)
        ):
            raise _error(422, "Input validation error: `inputs` cannot be empty", kind="Validation")
        if len(texts) > ITEMS:
            raise _error(
                413, f"batch size {len(texts)} > maximum allowed batch size {ITEMS}", kind="Validation"
            )
        counts = [tokenizer().count(text) for text in texts]
        if max(counts) > model.tokens and not payload.get("truncate", False):
            raise _error(
                413,
                f"Input validation error: `inputs` must have less than {model.tokens} tokens. Given: {max(counts)}",
                kind="Validation",
            )
        return Call(
            model=name,
            texts=texts,
            tokens=sum(min(count, model.tokens) for count in counts),
            form=("normal" if payload.get("normalize", True) else "raw")
            + ("/one" if isinstance(inputs, str) else "/many"),
            input_type=prompt,
        )


def of_tokens(vector: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Make vectors of `count` tokens whose mean is `vector`; with two or more, none is the mean itself."""
    away = np.roll(vector, 1) * np.float32(LEFT_OUT)
    signs = np.ones(count, np.float32)
    signs[1::2] = -1
    if count % 2 and count > 1:
        signs[-3:] = (1, 1, -2)
    elif count == 1:
        signs[:] = 0
    rows: NDArray[np.float32] = vector + signs[:, None] * away
    return rows


def _error(status: int, message: str, kind: str | None = None) -> VendorError:
    payload = {"error": message} if kind is None else {"error": message, "error_type": kind}
    return VendorError(as_json(status, payload))
