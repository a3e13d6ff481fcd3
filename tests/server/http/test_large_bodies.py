"""Bodies that are large, or made of very many values, and heads that are odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from tests.server.conftest import MODEL, call

from flowbed.services.embedding.inputs import CONTAINERS_MOST, VALUES_MOST

if TYPE_CHECKING:
    from tests.server.conftest import Running

JSON = {"content-type": "application/json"}
FORM = "multipart/form-data; boundary="
MB = 2**20


@pytest.mark.parametrize(
    "value",
    [b"[],", b"{},", b"1,", b'"a",', b'{"a":1},', b"[[[[[[[[1]]]]]]]],"],
    ids=["lists", "objects", "numbers", "texts", "keys", "nested"],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/search", "/v1/batches"])
def test_body_of_millions_of_values_is_refused_unparsed(
    server: Running, value: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing it would stop everything else for seconds, and fill the memory."""
    parsed: list[int] = []
    loads = orjson.loads

    def watched(body: bytes) -> object:
        parsed.append(len(body))
        return loads(body)

    monkeypatch.setattr(orjson, "loads", watched)
    body = b'{"model":"m","input":[' + value * (8 * MB // len(value)) + b"1]}"
    parts = [body[at : at + 2**18] for at in range(0, len(body), 2**18)]
    reply = server.wait(call(server.app, "POST", path, parts, JSON))
    assert reply.status == 400
    assert "too many values" in reply.refused()["message"]
    assert max(parsed, default=0) < 1_000  # the response, which this test reads


def test_body_with_the_most_tokens_or_texts_is_answered(server: Running) -> None:
    """The limits of values leave room for each valid request."""
    numbers = orjson.dumps({"model": MODEL, "input": [[100_000] * 8_000] * 37})
    assert numbers.count(b",") < VALUES_MOST / 3
    texts = orjson.dumps({"model": MODEL, "input": ['{"a": [1, 2]}, '] * 2_048})
    assert texts.count(b"[") + texts.count(b"{") < CONTAINERS_MOST / 3
    for body in (numbers, texts):
        reply = server.call("POST", "/v1/embeddings", body, JSON)
        assert reply.status == 200, reply.body[:200]


@pytest.mark.parametrize("path", ["/v1/search", "/v1/batches", "/v1/admin/cache/warm"])
def test_body_far_larger_than_a_valid_one_gets_413(server: Running, path: str) -> None:
    reply = server.call("POST", path, orjson.dumps({"query": "x" * MB}), JSON)
    assert (reply.status, reply.refused()["code"]) == (413, "request_too_large")


def test_search_thousands_of_faults_report_one(server: Running) -> None:
    fields = orjson.dumps({f"field{n}": n for n in range(20_000)})
    reply = server.call("POST", "/v1/search", fields, JSON)
    assert reply.refused()["param"] == "field0"
    texts = orjson.dumps({"query": ["a"] * 100_000})
    assert server.call("POST", "/v1/search", texts, JSON).refused()["param"] == "query"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/files", "/v1/search"])
@pytest.mark.parametrize(
    ("length", "statuses"),
    [
        ("0" * 5_000 + "5", {400, 415}),
        ("9" * 5_000, {413}),
        ("0" * 5_000 + "9" * 30, {413}),
        ("0", {400, 415}),
    ],
    ids=["zeros", "nines", "both", "zero"],
)
def test_content_length_of_thousands_of_digits_is_read_as_a_number(
    server: Running, path: str, length: str, statuses: set[int]
) -> None:
    reply = server.call("POST", path, b"{...}", {**JSON, "content-length": length})
    assert reply.status in statuses
    reply.refused()


@pytest.mark.parametrize("boundary", ["x" * 71, "x" * 257, "x" * 60_000, '"' + "y" * 300 + '"'])
def test_form_with_a_long_boundary_is_refused(server: Running, boundary: str) -> None:
    reply = server.call("POST", "/v1/files", b"--x", {"content-type": FORM + boundary})
    assert reply.status == 400
    assert "boundary" in reply.refused()["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("PUT", "/v1/files/file-a", "DELETE, GET"),
        ("PATCH", "/v1/admin/cache", "DELETE, GET"),
        ("GET", "/v1/embeddings", "POST"),
        ("DELETE", "/metrics", "GET"),
    ],
)
def test_wrong_method_is_told_all_methods_of_the_path(
    server: Running, method: str, path: str, allowed: str
) -> None:
    reply = server.call(method, path)
    assert (reply.status, reply.headers["allow"]) == (405, allowed)
