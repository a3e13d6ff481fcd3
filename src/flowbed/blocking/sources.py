"""The sources of an open project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.events.schedule import Due
    from flowbed.ledger import BatchRow
    from flowbed.maintenance.inspect import SourceStatus
    from flowbed.pipeline.sync import Synced


class Sources(Loop):
    """The sources of an open project."""

    def add(
        self,
        name: str,
        *,
        kind: str,
        location: str | Path,
        collection: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a source into `flowbed.toml`; one of the same name and kind keeps the options that are not given.

        `kind` is the kind of source (`files`, `jsonl`, `receipts`, ...), `location` its path or address, `options` the
        settings of that kind. `collection` defaults to the source's name.

        Raises:
            Misconfigured: the name, the kind, the location or an option is invalid.
        """
        self._wait(self._bed.add(name, kind=kind, location=location, collection=collection, options=options))

    def fetch(
        self, name: str, *, wrote: Callable[[BatchRow], None] | None = None, allow_deletes: bool = False
    ) -> Synced:
        """Fetch one source into batch files, and embed nothing; `wrote` is called with each file.

        Raises:
            Misconfigured: there is no such source, or it cannot be read.
            Transient: the same fetch may succeed later.
        """
        return self._wait(self._bed.fetch(name, wrote=wrote, allow_deletes=allow_deletes))

    def sources(self) -> list[SourceStatus]:
        """List the configured sources, removed ones of which something is indexed, and those of precomputed rows."""
        return self._wait(self._bed.sources())

    def schedule(self) -> dict[str, Due]:
        """Tell when each source was fetched by `watch` last, and when it is due next.

        Raises:
            Misconfigured: a schedule is invalid.
        """
        return self._wait(self._bed.schedule())

    def remove(self, name: str) -> None:
        """Remove a source from `flowbed.toml`; its rows stay until a run of its name with `allow_deletes`.

        Raises:
            NotFound: no source has that name.
        """
        self._wait(self._bed.remove(name))
