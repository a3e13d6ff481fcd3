"""Opens a project for the checklist: a part that cannot be opened is replaced by one that says why at each use."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flowbed import settings
from flowbed.errors import Error, Newer
from flowbed.ledger import open_ledger
from flowbed.ledger.sql.lazy_ledger import find_ledger
from flowbed.maintenance.checklist import ChecklistContext
from flowbed.maintenance.store_binding import Unbound, require_bound
from flowbed.storage import open_store
from flowbed.wiring import opening
from flowbed.wiring.publications import configured, publish_context
from flowbed.wiring.scratch import scratch

if TYPE_CHECKING:
    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import Ledger
    from flowbed.storage import Store


class Unopened:
    """Takes the place of a store or a ledger that cannot be used; `url`, `location` and `id` can be read."""

    def __init__(self, error: Error, name: str) -> None:
        """Raise `error` at each use."""
        self._error = error
        self.url = self.location = self.id = name

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse any use.

        Raises:
            Error: always the same, which says why.
        """
        raise self._error.with_traceback(None)

    async def close(self) -> None:
        """Close nothing."""


async def open_parts(folder: Path) -> opening.Opened:
    """Open what can be opened of the project in `folder`.

    Raises:
        Misconfigured: its settings are invalid.
    """
    place = await asyncio.to_thread(opening.make_folder, folder)
    config = await asyncio.to_thread(settings.read_settings, place)
    store: Any
    ledger: Any
    try:
        options = settings.store_options(config)
        store = await asyncio.to_thread(open_store, config.store, folder=place, options=options)
    except Error as error:
        store = Unopened(error, config.store)
    try:
        ledger = await asyncio.to_thread(find_ledger, config.ledger, folder=place) or await open_ledger(
            settings.ledger_url(config), folder=place, new_id=secrets.token_hex(16)
        )
    except Error as error:
        ledger = Unopened(error, "ledger")
    return opening.Opened(place, config, store, ledger)


async def own_ledger(store: Store, ledger: Ledger, *, store_name: str, ledger_name: str) -> Ledger:
    """Return the ledger, or what says at each use that it is not the store's own: what it knows means nothing then."""
    unbound: Any = None
    try:
        await require_bound(store, ledger, store_name=store_name, ledger_name=ledger_name)
    except (Unbound, Newer) as error:
        unbound = Unopened(error, ledger.location)
    except Error:
        return ledger  # the stage of the one that fails says so
    return unbound or ledger


def checklist_context(
    context: RunContext, folder: Path, config: settings.Settings, vector_file: Path
) -> ChecklistContext:
    """Add what the checklist looks at beside what the doctor does."""
    _, root = settings.snapshot_mode()
    return ChecklistContext(
        **vars(opening.doctor_context(context, folder, config, vector_file)),
        publications=configured(config),
        scratch=partial(scratch, folder),
        mount=Path(root) if root else None,
        publish_context=partial(
            publish_context, hidden=folder / ".flowbed", store=context.store, datasets=context.datasets
        ),
    )
