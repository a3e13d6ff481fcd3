"""Flowbed keeps an embedding index in step with your data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed import errors
    from flowbed.bed import Flowbed, aopen
    from flowbed.blocking import open, pull  # noqa: A004 - read as `flowbed.open`
    from flowbed.records import Chunk, Document, Hit, Plan, Report

    __version__: str

__all__ = [
    "Chunk",
    "Document",
    "Flowbed",
    "Hit",
    "Plan",
    "Report",
    "__version__",
    "aopen",
    "errors",
    "open",
    "pull",
]

# Resolved on first use, so that `import flowbed` costs milliseconds and loads no vendor's package.
_HOMES = {
    "Chunk": "flowbed.records",
    "Document": "flowbed.records",
    "Flowbed": "flowbed.bed",
    "Hit": "flowbed.records",
    "Plan": "flowbed.records",
    "Report": "flowbed.records",
    "aopen": "flowbed.bed",
    "open": "flowbed.blocking",
    "pull": "flowbed.blocking",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # reading metadata is slow, and rarely asked for

        return version("flowbed")
    if name == "errors":
        return import_module("flowbed.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
