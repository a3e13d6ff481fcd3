"""Descriptions of routes for the server's OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.server.api.schemas import ErrorResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

# Possible responses of every route behind the gate.
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "Refused; the message says what to change."},
    "5XX": {
        "model": ErrorResponse,
        "description": "Failed; where asking again may help, Retry-After says when.",
    },
}


def body_of(shape: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describe a JSON body that the route reads itself."""
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": _schema(shape)}}}
    }


def form_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a form that the route reads itself; forms have no null, so optional fields are left out."""
    schema = _schema(shape)
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


def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    """Return a schema with nested schemas inlined: their references would not resolve in the whole document."""
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
