"""The OpenAPI document, and whether the server conforms to it."""

from __future__ import annotations

import json
import re
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

if TYPE_CHECKING:
    from tests.server.conftest import Running

OPERATIONS = {
    "GET /v1/admin/batches",
    "GET /v1/admin/checklist",
    "GET /v1/admin/dead-letters",
    "GET /v1/admin/flow",
    "GET /v1/admin/keys",
    "GET /v1/admin/spending",
    "GET /v1/admin/submissions",
    "GET /v1/collections",
    "GET /v1/collections/{collection}/changes",
    "GET /v1/collections/{collection}/map",
    "GET /v1/collections/{collection}/versions",
    "GET /v1/rows",
    "GET /v1/session",
    "GET /v1/why",
    "POST /v1/admin/dead-letters/retry",
    "POST /v1/admin/keys",
    "POST /v1/admin/keys/{key}/revoke",
    "POST /v1/admin/rollback",
    "POST /v1/admin/submissions/cancel",
    "POST /v1/collections/{collection}/map/ids",
    "POST /v1/collections/{collection}/map/rows",
    "POST /v1/collections/{collection}/rows",
    "DELETE /v1/admin/cache",
    "DELETE /v1/files/{file}",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /v1/admin/breakers",
    "GET /v1/admin/cache",
    "GET /v1/admin/providers",
    "GET /v1/batches",
    "GET /v1/batches/{batch}",
    "GET /v1/files",
    "GET /v1/files/{file}",
    "GET /v1/files/{file}/content",
    "GET /v1/jobs",
    "GET /v1/jobs/{job}",
    "GET /v1/jobs/{job}/events",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "PATCH /v1/jobs/{job}",
    "POST /v1/admin/breakers/reset",
    "POST /v1/admin/cache/warm",
    "POST /v1/admin/reprocess",
    "POST /v1/batches",
    "POST /v1/batches/{batch}/cancel",
    "POST /v1/embeddings",
    "POST /v1/events",
    "POST /v1/files",
    "POST /v1/jobs",
    "POST /v1/jobs/{job}/cancel",
    "POST /v1/jobs/{job}/retry",
    "POST /v1/search",
    *(
        f"{method} /v1/vector_stores{path}"
        for path, methods in {
            "": "GET POST",
            "/{vector_store}": "DELETE GET POST",
            "/{vector_store}/file_batches": "POST",
            "/{vector_store}/file_batches/{batch}": "GET",
            "/{vector_store}/file_batches/{batch}/cancel": "POST",
            "/{vector_store}/file_batches/{batch}/files": "GET",
            "/{vector_store}/files": "GET POST",
            "/{vector_store}/files/{file}": "DELETE GET POST",
            "/{vector_store}/files/{file}/content": "GET",
            "/{vector_store}/search": "POST",
        }.items()
        for method in methods.split()
    ),
    "GET /v1/collections/{collection}/fields",
    *(
        f"{method} /v1/collections/{{collection}}{path}"
        for path, methods in {
            "/documents": "GET POST",
            "/documents/delete": "POST",
            "/documents/{document}": "DELETE GET PUT",
            "/documents/{document}/similar": "POST",
            "/records": "POST",
            "/records/{record}": "DELETE GET",
            "/reembed": "POST",
            "/search": "POST",
        }.items()
        for method in methods.split()
    ),
}
# The first key would close the server to the other tests: tests/server/page/test_keys.py creates keys.
ASKED = OPERATIONS - {"POST /v1/admin/keys"}
# The other routes have nothing that could be invalid.
REFUSABLE = {
    name
    for name in ASKED
    if name.startswith(("POST", "PUT"))
    and not name.endswith(("/{batch}/cancel", "{job}/retry", "}/revoke", "/reembed"))
}
EXAMPLES = 10  # per operation
EXAMPLES_OF_LONG, SECONDS = 25, 60  # of the long test: per operation and seed, and in all
# Valid requests are still refused if they name something that does not exist, or have more tokens than a model takes,
# which a schema cannot express.
UNCHECKED = [positive_data_acceptance]


@pytest.fixture(scope="module")
def existing(server: Running) -> dict[str, str]:
    """Return ids that exist, by the name of the parameter: an unknown one hides all other faults of a request."""
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext\r\n--b--\r\n'
    )
    form = {"content-type": "multipart/form-data; boundary=b"}
    file = server.call("POST", "/v1/files", body, form).json["id"]
    store = server.call("POST", "/v1/vector_stores", {}).json["id"]
    path = f"/v1/vector_stores/{store}/file_batches"
    batch = server.call("POST", path, {"file_ids": [file]}).json["id"]
    document = {"text": "Tea is served at four."}
    assert server.call("PUT", "/v1/collections/written/documents/tea", document).status == 200
    written = {"collection": "written", "document": "tea", "record": "written.documents#tea#00000"}
    return {"vector_store": store, "file": file, "batch": batch, **written}


@pytest.fixture(scope="module")
def description(server: Running) -> dict[str, Any]:
    """Return the OpenAPI document."""
    read: dict[str, Any] = server.call("GET", "/openapi.json").json
    return read


def test_openapi_document_lists_every_route_and_its_failures(description: dict[str, Any]) -> None:
    described = {
        f"{method.upper()} {path}": operation
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    }
    assert set(described) == OPERATIONS
    for operation in described.values():
        assert "422" not in operation["responses"]
        assert operation["description"]


def test_examples_of_every_route_conform_to_its_schemas(description: dict[str, Any]) -> None:
    """Required parameters, the body and an answer have one; an answer has no field that its schema lacks."""
    schemas = {"components": description["components"]}
    closed = _closed(schemas)
    faults = [
        f"{method.upper()} {path}: {fault.json_path}: {fault.message}"
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        for content, known in [
            *(
                (each, schemas)
                for each in operation.get("parameters", ())
                if each["required"] or "example" in each
            ),
            *((each, schemas) for each in _first(operation.get("requestBody", {}))),
            *((each, closed) for each in _answers(operation)),
        ]
        for fault in _faults(content, known)
    ]
    assert faults == []


def test_example_that_does_not_conform_is_a_fault(description: dict[str, Any]) -> None:
    """A field of the wrong type, one that is missing, and one that the schema lacks."""
    schemas = _closed({"components": description["components"]})
    (answer,) = _answers(description["paths"]["/v1/models/{model}"]["get"])
    wrong = {**answer["example"], "created": "today", "gone": 1}
    del wrong["id"]
    assert len(_faults({**answer, "example": wrong}, schemas)) == 3
    assert _faults(answer, schemas) == []


def test_examples_of_routes_that_are_gone_are_deleted() -> None:
    examples = json.loads(files("flowbed.server.api").joinpath("examples.json").read_text("utf-8"))
    assert set(examples) == OPERATIONS


def _first(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the first kind of a body, which the example is of; none if there is no body."""
    return list(body.get("content", {}).values())[:1]


def _answers(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the kinds of answer that have an example; at least one has."""
    answered = [each for status, each in operation["responses"].items() if status.startswith("2")]
    found = [
        content for each in answered for content in each.get("content", {}).values() if "example" in content
    ]
    assert found, operation["operationId"]
    return found


def _faults(content: dict[str, Any], schemas: dict[str, Any]) -> list[jsonschema.ValidationError]:
    """Return where an example differs from its schema."""
    schema = {**content.get("schema", {}), **schemas}
    return list(jsonschema.Draft202012Validator(schema).iter_errors(content["example"]))


def _closed(part: Any) -> Any:
    """Return schemas whose objects have no fields but those named."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(each) for name, each in part.items()}
    if part.get("type") == "object" and isinstance(part.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def test_table_of_tldw_names_routes_that_are_there(description: dict[str, Any]) -> None:
    """Each of our routes in the second column is one of the document."""
    page = (Path(__file__).parent.parent.parent / "docs" / "migrating-from-tldw.md").read_text("utf-8")
    ours = [line.split("|")[2] for line in page.splitlines() if line.startswith("| `")]
    paths = {re.sub(r"{\w+}", "{}", path) for path in description["paths"]}
    named = re.findall(r"`(?:[A-Z]+ )?(/(?:v1|health|metrics)[^`]*)`", " ".join(ours))
    named += re.findall(r"`[A-Z]+`, `[A-Z]+ (/v1[^`]*)`", " ".join(ours))
    assert len(named) > 40
    assert [path for path in named if re.sub(r"{\w+}", "{}", path) not in paths] == []


def test_openapi_document_describes_embeddings_field_by_field(description: dict[str, Any]) -> None:
    operation = description["paths"]["/v1/embeddings"]["post"]
    requested = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(requested["properties"]) == {
        "input",
        "model",
        "encoding_format",
        "dimensions",
        "user",
        "input_type",
    }
    assert requested["additionalProperties"] is False
    assert set(requested["required"]) == {"input", "model"}
    assert len(requested["properties"]["input"]["anyOf"]) == 4
    answered = description["components"]["schemas"]["EmbeddingList"]
    assert set(answered["properties"]) == {"object", "data", "model", "usage"}


@pytest.mark.parametrize("operation", sorted(ASKED))
def test_routes_valid_generated_requests_conform_to_the_document(
    server: Running, operation: str, existing: dict[str, str]
) -> None:
    """No response is a 5xx."""
    _ask(server, operation, GenerationMode.POSITIVE, existing)


@pytest.mark.parametrize("operation", sorted(REFUSABLE))
def test_routes_invalid_generated_requests_are_refused_as_documented(
    server: Running, operation: str, existing: dict[str, str]
) -> None:
    """No response is a 5xx."""
    _ask(server, operation, GenerationMode.NEGATIVE, existing)


@pytest.mark.long
def test_routes_generated_requests_of_a_minute_conform_to_the_document(
    server: Running, existing: dict[str, str]
) -> None:
    """With fixed seeds; no response is a 5xx."""
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        for operation in sorted(OPERATIONS):
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                if mode is GenerationMode.POSITIVE or operation in REFUSABLE:
                    _ask(server, operation, mode, existing, number=number, examples=EXAMPLES_OF_LONG)
        number += 1
    assert number


def _ask(
    server: Running,
    operation: str,
    mode: GenerationMode,
    existing: dict[str, str],
    *,
    number: int = 0,
    examples: int = EXAMPLES,
) -> None:
    method, _, path = operation.partition(" ")
    # What exists is not deleted, and requests about batches of /v1/batches name none of these.
    theirs = path.startswith(("/v1/vector_stores/", "/v1/collections/{collection}/"))
    named = existing if theirs and method != "DELETE" else {}
    schema = _schema(f"{server.url}/openapi.json")

    @seed(number)
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def ask(case: schemathesis.Case[Any]) -> None:
        assume(not _vanishes(case))
        case.path_parameters = {
            name: named.get(name, value) for name, value in (case.path_parameters or {}).items()
        }
        case.call_and_validate(excluded_checks=UNCHECKED)

    ask()


@cache
def _schema(url: str) -> Any:
    """Read the document once for all tests of a server."""
    return schemathesis.openapi.from_url(url)


def _vanishes(case: schemathesis.Case[Any]) -> bool:
    """Return whether an invalid field is not sent at all: a form has no way to write an empty list or null."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return False
    return any(value in (None, [], {}) for value in case.body.values())
