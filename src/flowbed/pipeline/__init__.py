"""The story, one function each: plan, sync the sources, embed what waits, commit, report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.chunking import Rules
    from flowbed.sources import Source


@dataclass(frozen=True, kw_only=True)
class ConfiguredSource:
    """A source with its chunking rules."""

    source: Source
    rules: Rules
