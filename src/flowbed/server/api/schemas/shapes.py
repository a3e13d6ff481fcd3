"""What all schemas share, and how fields are validated."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowbed.errors import Rejected
from flowbed.server.http.wire import LAST_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    Shape = TypeVar("Shape", bound=BaseModel)


Text = Annotated[str, Field(min_length=1)]


Tokens = Annotated[list[Annotated[int, Field(ge=0, le=LAST_TOKEN)]], Field(min_length=1)]


# Names in the location of an error that are fields or keys, and those of forms that look like them.
_FIELDS = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_FORMS = frozenset({"bool", "dict", "float", "int", "list", "none", "str"})


class Closed(BaseModel):
    """A request that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


def model_of(shape: type[Shape], fields: Mapping[str, Any]) -> Shape:
    """Validate fields against a schema.

    Raises:
        Rejected: they do not match; the message names the field.
    """
    # Pydantic would make an error for each of them.
    unknown = [name for name in fields if name not in known_fields(shape)]
    if unknown and shape.model_config.get("extra") == "forbid":
        raise Rejected(f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise rejected(error) from error


@cache
def known_fields(shape: type[BaseModel]) -> frozenset[str]:
    """Return the names that the fields of a request have."""
    return frozenset(field.alias or name for name, field in shape.model_fields.items())


def rejected(error: ValidationError) -> Rejected:
    """Word the first error without its value, which may be a text."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    place = _place(errors[0]["loc"])
    # Of a field that may have several forms, the one that fits best was meant: that with the fault deepest in it.
    first = max((each for each in errors if _place(each["loc"]) == place), key=lambda each: len(each["loc"]))
    where, path = str(place[0]) if place else None, _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return Rejected(f"Unrecognized request argument supplied: {path}", param=where)
    if first["type"] == "missing":
        return Rejected(f"'{path}' is a required property", param=where)
    return Rejected(f"Invalid '{path}': {first['msg']}.", param=where, code="invalid_value")


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the field of an error, with the number of an item in it."""
    return location[: 2 if len(location) > 1 and isinstance(location[1], int) else 1]


def _path(location: tuple[int | str, ...]) -> str | None:
    """Write where an error is, such as `texts[3].text`, without the names that pydantic gives the forms of a field."""
    rest = "".join(
        f"[{each}]" if isinstance(each, int) else f".{each}"
        for each in location[1:]
        if isinstance(each, int) or (_FIELDS.fullmatch(each) and each not in _FORMS)
    )
    return f"{location[0]}{rest}" if location else None
