"""The lines of a job at OpenAI: their validation and their answers.

Codes and wording were observed at OpenAI. Those for an input that is too large or for two models are documented for
Azure's copy, and worded by us. https://platform.openai.com/docs/api-reference/batch/request-input
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.testing.simulators.batch_api.jobs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.testing.simulators.providers.openai import OpenAI
    from flowbed.testing.simulators.wire import Answer, Call

ENDPOINT = "/v1/embeddings"
REQUIRED = ("custom_id", "method", "url", "body")
UNFINISHED = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was cancelled before it could be executed.",
}


class Lines:
    """The lines of one job."""

    def __init__(self, api: OpenAI) -> None:
        """Validate the calls as `api` does."""
        self._api = api
        self._model = ""
        self._seen: set[str] = set()

    def check(self, number: int, payload: dict[str, Any]) -> Iterator[Problem]:
        """Return what is wrong with a line of input, so that the whole job is refused."""
        missing = [name for name in REQUIRED if name not in payload]
        for name in missing:
            message = f"Missing required parameter: '{name}'."
            yield Problem(code="missing_required_parameter", message=message, line=number, param=name)
        if missing:
            return
        yield from self._identity(number, payload["custom_id"])
        if payload["method"] != "POST":
            message = f"Invalid value: '{payload['method']}'. Supported values are: 'POST'."
            yield Problem(code="invalid_value", message=message, line=number, param="method")
        if payload["url"] != ENDPOINT:
            message = "The URL provided for this request does not match the batch endpoint."
            yield Problem(code="invalid_url", message=message, line=number, param="url")
        yield from self._body(number, payload["body"])

    def _identity(self, number: int, custom_id: Any) -> Iterator[Problem]:  # any JSON value
        if not isinstance(custom_id, str):
            message = "Invalid type for 'custom_id': expected a string."
            yield Problem(code="invalid_type", message=message, line=number, param="custom_id")
        elif custom_id in self._seen:
            message = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. The custom_id "
                "parameter must be unique for each request in a batch."
            )
            yield Problem(code="duplicate_custom_id", message=message, line=number, param="custom_id")
        else:
            self._seen.add(custom_id)

    def _body(self, number: int, body: Any) -> Iterator[Problem]:  # any JSON value
        if not isinstance(body, dict):
            message = "Invalid type for 'body': expected an object."
            yield Problem(code="invalid_type", message=message, line=number, param="body")
            return
        model = body.get("model")
        if not isinstance(model, str):
            message = "Model parameter is required."
            yield Problem(code="invalid_request", message=message, line=number, param="body.model")
        elif model not in self._api.models:
            message = f"The provided model '{model}' is not supported by the Batch API."
            yield Problem(code="model_not_found", message=message, line=number, param="body.model")
        elif model != (self._model or model):
            message = f"The model '{model}' is not that of the first line, '{self._model}'."
            yield Problem(code="model_mismatch", message=message, line=number, param="body.model")
        else:
            self._model = model
        if "input" not in body:
            message = "Input parameter is required."
            yield Problem(code="invalid_request", message=message, line=number, param="body.input")

    def call(self, payload: dict[str, Any]) -> Call:
        """Validate the call of a line; null means absent."""
        return self._api.call({name: value for name, value in payload["body"].items() if value is not None})

    def line(self, job: str, custom_id: str, answer: Answer) -> bytes:  # noqa: ARG002 - OpenAI's lines name no job
        """Write a line of the output."""
        response = {"status_code": answer.status, "request_id": secrets.token_hex(16)}
        fields = {
            "id": f"batch_req_{secrets.token_hex(16)}",
            "custom_id": custom_id,
            "response": {**response, "body": orjson.Fragment(answer.body)},
            "error": None,
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)

    def unfinished(self, job: str, custom_id: str, why: str) -> bytes:  # noqa: ARG002 - OpenAI's lines name no job
        """Write the line of one that was not processed."""
        fields = {
            "id": f"batch_req_{secrets.token_hex(16)}",
            "custom_id": custom_id,
            "response": None,
            "error": {"code": why, "message": UNFINISHED[why]},
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
