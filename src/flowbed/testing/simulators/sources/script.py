"""Orders to a running simulator: POST /_simulator/do calls one of its methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def carry_out(
    simulator: object, order: Mapping[str, Any], *, script: Collection[str]
) -> tuple[int, dict[str, Any]]:
    """Call the method that `order` names in `do`, one of `script`, with the rest of it; return a status and a body."""
    name, given = order.get("do", ""), {key: value for key, value in order.items() if key != "do"}
    if name not in script:
        return 400, {"message": f"the script has no {name!r}; it has {', '.join(script)}"}
    try:
        return 200, {"result": getattr(simulator, name)(**given)}
    except (TypeError, KeyError, Rejected) as error:
        return 400, {"message": str(error)}
