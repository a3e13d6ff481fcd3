"""The story, a function each: sync the sources, embed what waits, commit, and say what happened."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from flowbed.chunking import Rules
    from flowbed.pipeline import plan, release, rollback, run, staging
    from flowbed.sources import Source

# Resolved on first use: a search needs none of them.
__all__ = ["plan", "release", "rollback", "run", "staging"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


@dataclass(frozen=True, kw_only=True)
class ConfiguredSource:
    """One source as a run needs it: where documents come from, and how they are chunked."""

    source: Source
    rules: Rules
