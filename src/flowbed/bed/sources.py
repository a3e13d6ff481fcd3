"""The sources of an open project."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from flowbed import settings
from flowbed.errors import Misconfigured
from flowbed.wiring import process
from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.events.schedule import Due
    from flowbed.ledger import BatchRow
    from flowbed.maintenance.inspect import SourceStatus
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.sync import Synced


class Sources(OpenProject):
    """The sources of an open project."""

    async def add(
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
        from flowbed.wiring.sources import add

        await asyncio.to_thread(
            add,
            self.folder,
            name,
            kind=kind,
            location=str(location),
            collection=collection,
            options=options or {},
        )
        self.settings = await asyncio.to_thread(settings.read_settings, self.folder)

    async def fetch(
        self, name: str, *, wrote: Callable[[BatchRow], None] | None = None, allow_deletes: bool = False
    ) -> Synced:
        """Fetch one source into batch files, and embed nothing; `wrote` is called with each file.

        Raises:
            Misconfigured: there is no such source, or it cannot be read.
            Transient: the same fetch may succeed later.
        """
        from flowbed.pipeline.sync import check_space, sync

        feed = (await self._feeds([name], removed=allow_deletes))[name]
        context = self._context()
        await check_space(feed, context)
        return await sync(feed, context, allow_deletes=allow_deletes, wrote=wrote)

    async def sources(self) -> list[SourceStatus]:
        """List the configured sources, removed ones of which something is indexed, and those of precomputed rows."""
        from flowbed.maintenance.inspect import sources

        return await sources(self._context())

    async def schedule(self) -> dict[str, Due]:
        """Tell when each source was fetched by `watch` last, and when it is due next.

        Raises:
            Misconfigured: a schedule is invalid.
        """
        from flowbed.events.watch import due_sources
        from flowbed.wiring.events import watched_sources

        return await due_sources(watched_sources(self.settings, self.folder), self._ledger)

    async def remove(self, name: str) -> None:
        """Remove a source from `flowbed.toml`; its rows stay until a run of its name with `allow_deletes`.

        Raises:
            NotFound: no source has that name.
        """
        await asyncio.to_thread(settings.remove_source, self.folder, name)
        self.settings = await asyncio.to_thread(settings.read_settings, self.folder)

    async def _feeds(self, names: Sequence[str], *, removed: bool = False) -> dict[str, ConfiguredSource]:
        from flowbed.wiring.sources import open_feeds

        known, folder = self.settings.sources, self.folder
        return await open_feeds(
            names, known, folder=folder, ledger=self._ledger, clock=process.now, removed=removed
        )

    async def _readable_feeds(self) -> dict[str, ConfiguredSource]:
        """Open every source that can be opened."""
        feeds: dict[str, ConfiguredSource] = {}
        for name in self.settings.sources:
            with contextlib.suppress(Misconfigured):
                feeds |= await self._feeds([name])
        return feeds
