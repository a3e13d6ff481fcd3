"""How routes are described in the server's OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.server.schemas import Failure

if TYPE_CHECKING:
    from pydantic import BaseModel

# Every route behind the gate can be answered so.
FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Failure, "description": "Refused; the message says what to change."},
    "5XX": {"model": Failure, "description": "Failed; where asking again may help, Retry-After says when."},
}


def body_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body that the route reads by itself."""
    schema = shape.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
