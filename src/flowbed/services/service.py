"""The services of one server, opened together."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.services.batches.jobs import Jobs
from flowbed.services.embeddings import Embeddings
from flowbed.services.files import Files
from flowbed.services.models import Models
from flowbed.services.quotas import Quotas
from flowbed.services.search import Search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records.serving import Health, Serving
    from flowbed.services.keys import Keys
    from flowbed.services.project import Project


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that a server needs, opened and connected."""

    bed: Project
    serving: Serving
    embeddings: Embeddings
    files: Files
    jobs: Jobs
    keys: Keys
    models: Models
    quotas: Quotas
    search: Search

    async def ready(self) -> list[Health]:
        """Check every dependency: each model embeds a real token, and the ledger is read."""
        return [*await self.models.ready(), await self.keys.health()]


@asynccontextmanager
async def open_service(bed: Project) -> AsyncIterator[Service]:
    """Open the services of a project; on exit, write the counted usage to the ledger and close them.

    Raises:
        Misconfigured: a model, an alias or a fallback is invalid; the message names it.
        Transient: the ledger cannot be reached.
    """
    serving = bed.serving
    models = await Models.open(bed, serving)
    files = Files(bed.store, bed.ledger.files, clock=bed.clock, secret=bed.secret)
    async with Quotas(bed.ledger, tiers=serving.tiers, clock=bed.clock) as quotas:
        try:
            yield Service(
                bed=bed,
                serving=serving,
                embeddings=Embeddings(models, quotas, serving),
                files=files,
                jobs=Jobs(bed.ledger.jobs, files, clock=bed.clock, secret=bed.secret),
                keys=bed.keys(),
                models=models,
                quotas=quotas,
                search=Search(bed, models, quotas, serving),
            )
        finally:
            await models.close()
