"""The services of one server, opened together."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.services.batches.jobs import JobService
from flowbed.services.chroma.service import open_chroma
from flowbed.services.documents.records import RecordService
from flowbed.services.documents.service import DocumentService
from flowbed.services.embedding.embeddings import EmbeddingService
from flowbed.services.events import EventService
from flowbed.services.files import FileService
from flowbed.services.jobs.jobs import IndexJobService
from flowbed.services.models import Models
from flowbed.services.page.browsing import BrowseService
from flowbed.services.page.flow import FlowService
from flowbed.services.page.maps import MapService
from flowbed.services.page.operating import OperatingService
from flowbed.services.quotas import QuotaService
from flowbed.services.search import SearchService
from flowbed.services.stages import Hints
from flowbed.services.vector_stores.service import open_vector_stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records.serving import Health, Serving
    from flowbed.services.chroma.service import ChromaService
    from flowbed.services.keys import KeyService
    from flowbed.services.project import Project
    from flowbed.services.vector_stores.service import VectorStoreService


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that a server needs, opened and connected."""

    bed: Project
    serving: Serving
    browse: BrowseService
    chroma: ChromaService
    documents: DocumentService
    embeddings: EmbeddingService
    events: EventService
    files: FileService
    hints: Hints
    index_jobs: IndexJobService
    flow: FlowService
    jobs: JobService
    keys: KeyService
    maps: MapService
    models: Models
    operating: OperatingService
    quotas: QuotaService
    records: RecordService
    search: SearchService
    vector_stores: VectorStoreService

    async def ready(self) -> list[Health]:
        """Check every dependency: each model embeds a real token, and the ledger is read."""
        return [*await self.models.ready(), await self.keys.health()]


@asynccontextmanager
async def open_service(bed: Project, *, hints: Hints | None = None) -> AsyncIterator[Service]:
    """Open the services of a project; on exit, write the counted usage to the ledger and close them.

    They tell `hints` of new work.

    Raises:
        Misconfigured: a model, an alias or a fallback is invalid; the message names it.
        Transient: the ledger cannot be reached.
    """
    serving = bed.serving
    models = await Models.open(bed, serving)
    hints = Hints() if hints is None else hints
    files = FileService(
        bed.store,
        bed.ledger.files,
        clock=bed.clock,
        secret=bed.secret,
        detach=bed.ledger.vector_store_files.detach,
    )
    async with (
        QuotaService(
            bed.ledger,
            tiers=serving.tiers,
            clock=bed.clock,
            rates=bed.embedder_stack().request_rates(),
        ) as quotas,
        EventService(bed) as events,
    ):
        browse, keys = BrowseService(bed, serving), bed.keys()
        chroma = open_chroma(bed, models, quotas, serving)
        search = SearchService(bed, models, quotas, serving)
        index_jobs = IndexJobService(bed, files, quotas, serving, hints=hints)
        vector_stores = open_vector_stores(bed, files, quotas, search, serving, hints)
        try:
            yield Service(
                bed=bed,
                serving=serving,
                browse=browse,
                chroma=chroma,
                embeddings=EmbeddingService(models, quotas, serving),
                events=events,
                files=files,
                hints=hints,
                jobs=JobService(bed.ledger.jobs, files, clock=bed.clock, secret=bed.secret, hints=hints),
                documents=DocumentService(bed, index_jobs, files, quotas),
                records=RecordService(bed, index_jobs),
                index_jobs=index_jobs,
                flow=FlowService(bed, browse, models),
                keys=keys,
                maps=MapService(bed, browse),
                models=models,
                operating=OperatingService(bed, serving, events, keys),
                quotas=quotas,
                search=search,
                vector_stores=vector_stores,
            )
        finally:
            vector_stores.close()
            await chroma.close()
            await models.close()
