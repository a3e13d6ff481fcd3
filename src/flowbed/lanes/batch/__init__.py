"""The batch lane: texts handed to a provider's Batch API in files, and answered in files hours later.

Nothing here knows of chunks, nor loads what an index or a model needs: texts go by their text_hash.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from flowbed.lanes.batch import find, poll, submit

# Resolved on first use: a search needs none of them.
__all__ = ["find", "poll", "submit"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
