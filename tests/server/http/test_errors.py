"""Every class of errors as an HTTP response."""

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
    """Return an empty body."""
    return b""


def refused(error: Exception, caller: Caller | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Convert an error to a response, and read it as a client does."""
    context = RequestContext(
        id="req_1", method="POST", path="/v1/embeddings", started=0, headers={}, read=no_body
    )
    context.caller = caller or context.caller
    message = ours.http_error(error, context, allowance=lambda _: ALLOWED)
    headers = {name.decode(): value.decode() for name, value in message.headers}
    body = orjson.loads(message.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return message.status, body["error"], headers


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
def test_error_class_maps_to_openais_status_type_and_code(
    error: Exception, status: int, type_: str, code: str | None
) -> None:
    message, body, headers = refused(error)
    assert (message, body["type"], body["code"]) == (status, type_, code)
    assert headers["content-type"] == "application/json"


def test_error_param_and_code_are_in_the_response() -> None:
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
def test_retryable_error_has_retry_after_headers(kind: type[errors.Transient]) -> None:
    """The default is one second."""
    _, _, headers = refused(kind("no", retry_after=1.25))
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1250")
    _, _, headers = refused(kind("no"))
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")
    assert "x-should-retry" not in headers


@pytest.mark.parametrize("error", [errors.Exhausted("no"), errors.Conflict("no"), errors.Misconfigured("no")])
def test_permanent_error_tells_sdks_not_to_retry(error: Exception) -> None:
    _, _, headers = refused(error)
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers


@pytest.mark.parametrize(
    "error", [errors.Misconfigured("the key of openai"), ValueError("the text"), KeyError("x")]
)
def test_server_error_shows_callers_only_the_request_id(error: Exception) -> None:
    _, body, _ = refused(error)
    assert str(error) not in body["message"]
    assert "req_1" in body["message"]


def test_misconfigured_is_shown_to_keys_with_the_admin_scope() -> None:
    """Unexpected exceptions are not shown even to them."""
    admin = Caller(key="1", admin=True)
    assert refused(errors.Misconfigured("set dimensions"), admin)[1]["message"] == "set dimensions"
    assert "text" not in refused(ValueError("the text"), admin)[1]["message"]


@pytest.mark.parametrize("error", [errors.TooMany("no"), errors.Exhausted("no")])
def test_too_many_requests_has_rate_limit_headers(error: Exception) -> None:
    _, _, headers = refused(error, Caller(key="1"))
    assert headers["x-ratelimit-limit-requests"] == "100"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "600ms"
    assert headers["x-ratelimit-limit-tokens"] == "5"
    assert headers["x-ratelimit-remaining-tokens"] == "1"
    assert headers["x-ratelimit-reset-tokens"] == "1h0m0s"


def test_wrong_method_and_missing_key_have_allow_and_www_authenticate_headers() -> None:
    assert refused(ours.WrongMethod("no", allow="GET, POST"))[2]["allow"] == "GET, POST"
    assert refused(errors.Unauthorized("no"))[2]["www-authenticate"] == "Bearer"


def test_allowance_headers_without_limits_are_empty() -> None:
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
def test_duration_formats_seconds_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written
