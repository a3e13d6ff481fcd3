"""Fields of events, read strictly: what a state machine or a person sends wrongly is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


def fields(event: Any) -> Mapping[str, Any]:
    """Return an event that has fields; none is an empty one.

    Raises:
        Rejected: it is something else.
    """
    if event is None:
        return {}
    if not isinstance(event, dict):
        raise Rejected(f"the event has to be a JSON object, not {shown(event)}")
    return event


def text(event: Mapping[str, Any], name: str) -> str:
    """Return a field that has to be there.

    Raises:
        Rejected: it is missing, or no text.
    """
    value = event.get(name)
    if not isinstance(value, str) or not value:
        raise Rejected(f"{name} has to be a text, not {shown(value)}", param=name)
    return value


def whole(event: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """Return a field that may be there as a number of `least` or more.

    Raises:
        Rejected: it is something else.
    """
    value = event.get(name)
    if value is None:
        return None
    # A bool is an int in Python, but not a number.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Rejected(f"{name} has to be a whole number of {least} or more, not {shown(value)}", param=name)
    return value
