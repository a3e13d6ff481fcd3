"""The lines of a job at Voyage.

Their shape is documented (https://docs.voyageai.com/docs/batch-inference). Their validation is not; it has the shape
of OpenAI's, whose specification Voyage follows otherwise (unverified, 2025-11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowbed.testing.simulators.batch_api.jobs import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.testing.simulators.providers.voyage import Voyage
    from flowbed.testing.simulators.wire import Answer, Call

EXPIRED = "This request could not be executed before the completion window expired."


class Lines:
    """The lines of one job, which all have the same `parameters`."""

    def __init__(self, api: Voyage, parameters: dict[str, Any]) -> None:
        """Validate the calls as `api` does."""
        self._api = api
        self._parameters = parameters
        self._seen: set[str] = set()

    def check(self, number: int, payload: dict[str, Any]) -> Iterator[Problem]:
        """Return what is wrong with a line of input, so that the whole job is refused."""
        custom_id, body = payload.get("custom_id"), payload.get("body")
        if not isinstance(custom_id, str):
            message = "Missing required parameter: 'custom_id'."
            yield Problem(code="missing_required_parameter", message=message, line=number, param="custom_id")
        elif custom_id in self._seen:
            message = f"The custom_id '{custom_id}' is not unique."
            yield Problem(code="duplicate_custom_id", message=message, line=number, param="custom_id")
        else:
            self._seen.add(custom_id)
        if not isinstance(body, dict) or "input" not in body:
            message = "Missing required parameter: 'body.input'."
            yield Problem(code="missing_required_parameter", message=message, line=number, param="body.input")
        elif others := sorted(body.keys() - {"input"}):
            message = f"'{others[0]}' belongs into the request_params of the batch."
            yield Problem(code="invalid_request", message=message, line=number, param=f"body.{others[0]}")

    def call(self, payload: dict[str, Any]) -> Call:
        """Validate the call of a line."""
        return self._api.call({**self._parameters, "input": payload["body"]["input"]})

    def line(self, job: str, custom_id: str, answer: Answer) -> bytes:
        """Write a line of the output."""
        response: dict[str, Any] = {"status_code": answer.status}
        if answer.status < 400:
            response["body"] = orjson.Fragment(answer.body)
        else:
            response["message"] = orjson.loads(answer.body)["detail"]
        return _line(job, custom_id, response, None)

    def unfinished(self, job: str, custom_id: str, why: str) -> bytes:
        """Write the line of one that was not processed; lines of a cancelled job are not reported."""
        if why != "batch_expired":
            return b""
        return _line(job, custom_id, None, {"code": why, "message": EXPIRED})


def _line(job: str, custom_id: str, response: object, error: object) -> bytes:
    fields = {"batch_id": job, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
