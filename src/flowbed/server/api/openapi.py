"""Descriptions of routes for the server's OpenAPI document."""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from flowbed.server.api.schemas.errors import ErrorResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

REFERENCE = "#/components/schemas/{model}"
_ERROR = {"application/json": {"schema": {"$ref": REFERENCE.format(model=ErrorResponse.__name__)}}}
# Possible responses of every route behind the gate. Were their model named here, FastAPI would make validators of it
# for each route, which takes a third of the time in which the application is made.
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"content": _ERROR, "description": "Refused; the message says what to change."},
    "5XX": {
        "content": _ERROR,
        "description": "Failed; where asking again may help, Retry-After says when.",
    },
}

# Of each route: parameters, a body, and the answer with its status and media type (JSON if none is named).
EXAMPLES = "examples.json"


class DescribedApplication(FastAPI):
    """An application whose OpenAPI document has an example of each route's request and answer."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, made once."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document: dict[str, Any] = super().openapi()
        error = ErrorResponse.model_json_schema(ref_template=REFERENCE)
        document["components"]["schemas"].update(error.pop("$defs"), **{ErrorResponse.__name__: error})
        examples = json.loads(files(__package__).joinpath(EXAMPLES).read_text("utf-8"))
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _exemplify(operation, examples.get(f"{method.upper()} {path}", {}))
        return document


def _exemplify(operation: dict[str, Any], example: dict[str, Any]) -> None:
    """Add an example to the description of a route."""
    given = example.get("parameters", {})
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in given:
            parameter["example"] = given[parameter["name"]]
    if "body" in example:
        # The first kind of body is the one that most clients send.
        next(iter(operation["requestBody"]["content"].values()))["example"] = example["body"]
    if "answer" in example:
        content = operation["responses"][str(example["status"])]["content"]
        content[example.get("media", "application/json")]["example"] = example["answer"]


def body_of(shape: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describe a JSON body that the route reads itself."""
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": _schema(shape)}}}
    }


def form_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a form that the route reads itself; forms have no null, so optional fields are left out."""
    schema = copy.deepcopy(_schema(shape))
    for field in schema["properties"].values():
        kinds = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
        field.update(kinds[0] if kinds else {})
        if "default" in field and field["default"] is None:
            del field["default"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def query_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe query parameters that the route reads itself."""
    described = _schema(shape)
    required = described.get("required", ())
    return {
        "parameters": [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in described["properties"].items()
        ]
    }


@cache
def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    """Return a schema with nested schemas inlined: their references would not resolve in the whole document.

    It must not be changed: all applications of a process share it.
    """
    schema = shape.model_json_schema()
    shapes = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return whole(shapes[part["$ref"].rpartition("/")[2]])
            return {name: whole(each) for name, each in part.items()}
        return [whole(each) for each in part] if isinstance(part, list) else part

    described: dict[str, Any] = whole(schema)
    return described
