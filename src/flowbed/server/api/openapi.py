"""How routes are described in the server's OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.server.api.schemas import Failure

if TYPE_CHECKING:
    from pydantic import BaseModel

# Every route behind the gate can be answered so.
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Failure, "description": "Refused; the message says what to change."},
    "5XX": {"model": Failure, "description": "Failed; where asking again may help, Retry-After says when."},
}


def body_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body that the route reads by itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(shape)}}}}


def form_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a form that the route reads by itself."""
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _schema(shape)}}}}


def query_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe the parameters of an address that the route reads by itself."""
    properties = _schema(shape)["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
        ]
    }


def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a shape with those inside it in their place: references would lead elsewhere in the whole document."""
    schema = shape.model_json_schema()
    shapes = schema.pop("$defs", {})

    def whole(part: Any) -> Any:  # any part of a schema
        if isinstance(part, dict):
            if "$ref" in part:
                return whole(shapes[part["$ref"].rpartition("/")[2]])
            return {name: whole(each) for name, each in part.items()}
        return [whole(each) for each in part] if isinstance(part, list) else part

    described: dict[str, Any] = whole(schema)
    return described
