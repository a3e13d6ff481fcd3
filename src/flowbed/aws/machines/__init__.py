"""State machines in Amazon States Language, as data: `${function}` stands for the ARN of a function."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from flowbed.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("create-batches", "poll-store", "realtime")
FUNCTION = re.compile(r"\$\{(\w+)\}")


def definition(name: str, functions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the definition of a machine, with the ARN of each function in it; without ARNs, as it is stored.

    Raises:
        NotFound: there is no such machine, or a function that it calls has no ARN.
    """
    if name not in NAMES:
        raise NotFound(f"no state machine is called {name!r}; there are: {', '.join(NAMES)}")
    text = (files(__name__) / f"{name}.json").read_text("utf-8")
    if functions is not None:
        if lacking := set(FUNCTION.findall(text)) - functions.keys():
            raise NotFound(f"machine {name} calls functions without an ARN: {', '.join(sorted(lacking))}")
        text = FUNCTION.sub(lambda match: functions[match[1]], text)
    found: dict[str, Any] = json.loads(text)
    return found
