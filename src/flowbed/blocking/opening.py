"""`Blocking`, a project for synchronous code, and how it is opened."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.blocking.forgetting import Forgetting
from flowbed.blocking.pipeline import Pipeline
from flowbed.blocking.publishing import Publishing
from flowbed.blocking.rows import Rows
from flowbed.blocking.search import Search
from flowbed.blocking.sources import Sources
from flowbed.blocking.state import State
from flowbed.blocking.submissions import Submissions
from flowbed.blocking.versions import Versions

if TYPE_CHECKING:
    from flowbed.publish.chroma.pull import Pulled, StorageMode


class Blocking(Sources, Pipeline, Submissions, Search, Rows, Versions, Forgetting, Publishing, State):
    """A project for synchronous code: every call of `Flowbed`, run to its end on an event loop in a thread."""


def open(folder: str | Path = ".") -> Blocking:  # noqa: A001 - read as `flowbed.open`
    """Open the project in `folder` for synchronous use; the folder is created if it does not exist.

    Raises:
        Misconfigured: its settings are invalid, or its store belongs to another ledger.
    """
    return Blocking(Path(folder))


def pull(
    collection: str,
    directory: str | Path,
    *,
    store: str | None = None,
    mode: StorageMode | None = None,
    folder: str | Path = ".",
) -> Pulled:
    """Download the current Chroma snapshot of a collection, as `Blocking.pull` does, without a ledger.

    `store` is where it is published; default: the store of the project in `folder`, or the bucket in
    `CHROMADB_BUCKET`.

    Raises:
        NotFound: nothing is published.
        Misconfigured: the store or the mode cannot be used.
    """
    from flowbed.wiring.publications import pull_snapshot

    return asyncio.run(pull_snapshot(Path(folder), collection, Path(directory), mode=mode, store=store))
