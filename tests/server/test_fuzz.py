"""Generated requests: everything is answered or refused in OpenAI's format, and nothing fails."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.server.conftest import MODEL

from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from tests.server.conftest import Reply, Running

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TOKENS = st.lists(st.integers(0, 100_300), max_size=6)
PLAUSIBLE = {
    "model": st.just(MODEL) | st.text(max_size=12),
    "input": st.text() | st.lists(st.text(), max_size=4) | TOKENS | st.lists(TOKENS, max_size=4),
    "dimensions": st.integers(-2, 2**33),
    "encoding_format": st.sampled_from(["float", "base64"]),
    "user": st.text(max_size=8),
    "input_type": st.sampled_from(["document", "query"]),
}
BODIES = st.fixed_dictionaries({}, optional={name: values | ANYTHING for name, values in PLAUSIBLE.items()})
SEARCHES = st.fixed_dictionaries(
    {},
    optional={
        "query": st.just("text") | st.text() | st.lists(st.floats(width=32), max_size=66) | ANYTHING,
        "collection": st.just("docs") | st.text(max_size=8) | ANYTHING,
        "where": st.dictionaries(st.text(max_size=4) | st.sampled_from(["$and", "$or", "$not"]), ANYTHING)
        | ANYTHING,
        "limit": st.integers(-1, 10_001) | ANYTHING,
        "at": st.integers(-1, 2**65) | ANYTHING,
        "unit": st.sampled_from(["chunk", "document", "page"]) | ANYTHING,
    },
)


def answered_or_refused(reply: Reply) -> bool:
    """Check that a response is an answer or an error in OpenAI's format; tell which."""
    if reply.status == 200:
        return True
    assert 400 <= reply.status < 500, reply
    reply.refused()
    return False


@given(st.binary(max_size=64))
def test_server_any_bytes_are_refused(server: Running, body: bytes) -> None:
    assert not answered_or_refused(server.call("POST", "/v1/embeddings", body))


@given(ANYTHING)
def test_server_any_json_is_refused(server: Running, body: Any) -> None:
    assert not answered_or_refused(server.call("POST", "/v1/embeddings", body))


@given(BODIES)
@example({"model": MODEL, "input": "\x00"})
@example({"model": MODEL, "input": "\ufeff\u202e\U0010ffff"})
@example({"model": MODEL, "input": " "})
@example({"model": MODEL, "input": [[100_256]]})
@example({"model": MODEL, "input": [2**32]})
@example({"model": MODEL, "input": "a", "dimensions": 2**63})
def test_server_almost_valid_requests_are_answered_or_refused(server: Running, body: dict[str, Any]) -> None:
    """An answer has the vector of its own text."""
    reply = server.call("POST", "/v1/embeddings", body)
    if (
        answered_or_refused(reply)
        and isinstance(body["input"], str)
        and body.get("encoding_format") == "float"
    ):
        np.testing.assert_array_equal(
            np.array([each["embedding"] for each in reply.json["data"]], np.float32),
            seeded([body["input"]], 64),
        )


@pytest.fixture(scope="module")
def indexed(server: Running) -> Running:
    """Run a server with indexed documents."""
    bed: Any = server.service.bed
    server.wait(bed.run())
    return server


@given(SEARCHES)
def test_server_almost_valid_searches_are_answered_or_refused(indexed: Running, body: dict[str, Any]) -> None:
    answered_or_refused(indexed.call("POST", "/v1/search", body))


@given(st.sampled_from(["/v1/admin/cache/warm", "/v1/admin/breakers/reset"]), ANYTHING)
def test_server_any_json_to_admin_routes_is_refused(server: Running, path: str, body: Any) -> None:
    assert not answered_or_refused(server.call("POST", path, body))


@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"])).map("/".__add__)
    | st.sampled_from(
        ["/v1/embeddings/", "//v1/embeddings", "/v1/models/", "/v1//models", "/v1/models/../admin/cache"]
    ),
)
def test_server_any_method_and_path_is_answered_or_refused(server: Running, method: str, path: str) -> None:
    answered_or_refused(server.call(method, path))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "authorization",
                "api-key",
                "content-type",
                "content-length",
                "x-request-id",
                "x-flowbed-allow-crossing",
            ]
        ),
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40),
    )
)
def test_server_any_header_values_are_answered_or_refused(server: Running, headers: dict[str, str]) -> None:
    body = orjson.dumps({"model": MODEL, "input": "text"})
    answered_or_refused(server.call("POST", "/v1/embeddings", body, headers))


@given(st.binary(min_size=1, max_size=200))
def test_server_bytes_that_are_not_http_end_their_connection_only(server: Running, sent: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n" + sent)
    assert server.call("GET", "/health/live").status == 200
