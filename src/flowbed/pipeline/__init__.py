"""The story, a function each: sync the sources, embed what waits, commit, and say what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.chunking import Rules
    from flowbed.sources import Source


@dataclass(frozen=True, kw_only=True)
class ConfiguredSource:
    """One source as a run needs it: where documents come from, and how they are chunked."""

    source: Source
    rules: Rules
