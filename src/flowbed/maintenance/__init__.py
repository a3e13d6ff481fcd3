"""Looks after a project: doctor, verify and repair, garbage collection, inspection."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from flowbed.maintenance import doctor, garbage, gc, inspect, repair, store_binding, verify

# Resolved on first use: a search needs none of them.
__all__ = ["doctor", "garbage", "gc", "inspect", "repair", "store_binding", "verify"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
