"""Every class of errors, as HTTP tells it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowbed import errors
from flowbed.records.serving import Allowance, Caller
from flowbed.server.http import errors as ours
from flowbed.server.http.rate_limit_headers import allowance_headers, duration
from flowbed.server.http.request_context import RequestContext

ALLOWED = Allowance(
    requests=100, requests_left=0, requests_reset=0.6, tokens=5, tokens_left=1, tokens_reset=3600
)


async def no_body() -> bytes:
    """Give the body of a request that has none."""
    return b""


def refused(error: Exception, caller: Caller | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Word an error, and read it as a client does."""
    context = RequestContext(
        id="req_1", method="POST", path="/v1/embeddings", started=0, headers={}, read=no_body
    )
    context.caller = caller or context.caller
    said = ours.http_error(error, context, allowance=lambda _: ALLOWED)
    headers = {name.decode(): value.decode() for name, value in said.headers}
    body = orjson.loads(said.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return said.status, body["error"], headers


@pytest.mark.parametrize(
    ("error", "status", "type_", "code"),
    [
        (errors.Rejected("no"), 400, "invalid_request_error", None),
        (errors.Unauthorized("no"), 401, "invalid_request_error", "invalid_api_key"),
        (errors.Forbidden("no"), 403, "invalid_request_error", "permission_denied"),
        (errors.NotFound("no", code="model_not_found"), 404, "invalid_request_error", "model_not_found"),
        (ours.WrongMethod("no", allow="POST"), 405, "invalid_request_error", "method_not_supported"),
        (ours.TooSlow("no"), 408, "invalid_request_error", "request_timeout"),
        (errors.Conflict("no"), 409, "invalid_request_error", "conflict"),
        (ours.TooLarge("no"), 413, "invalid_request_error", "request_too_large"),
        (ours.Unsupported("no"), 415, "invalid_request_error", "unsupported_content_type"),
        (errors.TooMany("no"), 429, "requests", "rate_limit_exceeded"),
        (errors.Exhausted("no"), 429, "insufficient_quota", "insufficient_quota"),
        (errors.Misconfigured("no"), 500, "server_error", "misconfigured"),
        (errors.Error("no"), 500, "server_error", None),
        (ValueError("no"), 500, "server_error", None),
        (errors.Transient("no"), 503, "server_error", "service_unavailable"),
        (errors.OutOfSpace("no"), 503, "server_error", "service_unavailable"),
        (errors.Unavailable("no"), 503, "server_error", "provider_unavailable"),
        (ours.Overloaded("no"), 503, "server_error", "overloaded"),
    ],
)
def test_every_class_has_its_status(error: Exception, status: int, type_: str, code: str | None) -> None:
    """Each class of the tree, and what nobody expected, has the status, type and code of OpenAI's API."""
    said, body, headers = refused(error)
    assert (said, body["type"], body["code"]) == (status, type_, code)
    assert headers["content-type"] == "application/json"


def test_the_field_and_the_code_of_an_error_are_told() -> None:
    """Where an error names a field and a code, the answer does; an odd one out brings its type along."""
    _, body, _ = refused(errors.Rejected("no", param="input", code="max_tokens_per_request"))
    assert body == {
        "message": "no",
        "type": "max_tokens_per_request",
        "param": "input",
        "code": "max_tokens_per_request",
    }


@pytest.mark.parametrize(
    "kind", [errors.Transient, errors.Unavailable, errors.TooMany, ours.Overloaded, ours.TooSlow]
)
def test_what_may_be_tried_again_says_when(kind: type[errors.Transient]) -> None:
    """Clients are told when to ask again: as the error says, in whole seconds and exactly, else after a second."""
    _, _, headers = refused(kind("no", retry_after=1.25))
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1250")
    _, _, headers = refused(kind("no"))
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")
    assert "x-should-retry" not in headers


@pytest.mark.parametrize("error", [errors.Exhausted("no"), errors.Conflict("no"), errors.Misconfigured("no")])
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    """SDKs, which would ask again by the status, are told not to where that cannot help."""
    _, _, headers = refused(error)
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers


@pytest.mark.parametrize(
    "error", [errors.Misconfigured("the key of openai"), ValueError("the text"), KeyError("x")]
)
def test_what_is_wrong_with_the_server_stays_there(error: Exception) -> None:
    """Callers are told that the server failed and under which id its log says why, and nothing of why."""
    _, body, _ = refused(error)
    assert str(error) not in body["message"]
    assert "req_1" in body["message"]


def test_the_operator_is_told_which_setting_is_wrong() -> None:
    """A key with the admin scope reads what has to be changed; of what nobody expected even it reads nothing."""
    admin = Caller(key="1", admin=True)
    assert refused(errors.Misconfigured("set dimensions"), admin)[1]["message"] == "set dimensions"
    assert "text" not in refused(ValueError("the text"), admin)[1]["message"]


@pytest.mark.parametrize("error", [errors.TooMany("no"), errors.Exhausted("no")])
def test_who_has_had_too_much_is_told_what_is_left(error: Exception) -> None:
    """An answer 429 has the headers of the limits."""
    _, _, headers = refused(error, Caller(key="1"))
    assert headers["x-ratelimit-limit-requests"] == "100"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "600ms"
    assert headers["x-ratelimit-limit-tokens"] == "5"
    assert headers["x-ratelimit-remaining-tokens"] == "1"
    assert headers["x-ratelimit-reset-tokens"] == "1h0m0s"


def test_a_wrong_method_names_the_right_ones() -> None:
    """405 lists the methods of the path, and 401 how to authenticate, as HTTP has it."""
    assert refused(ours.WrongMethod("no", allow="GET, POST"))[2]["allow"] == "GET, POST"
    assert refused(errors.Unauthorized("no"))[2]["www-authenticate"] == "Bearer"


def test_without_limits_there_are_no_headers_of_them() -> None:
    """A caller without limits is told of none."""
    assert allowance_headers(Allowance()) == []


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (0.012, "12ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3599.7, "1h0m0s"),
        (86399, "23h59m59s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    """Resets are durations such as 12ms and 6m0s."""
    assert duration(seconds) == written
