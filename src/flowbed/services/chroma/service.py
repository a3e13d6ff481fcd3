"""What the server needs to answer Chroma's clients, opened together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.services.chroma.collections import CollectionDirectory
from flowbed.services.chroma.creation import CreationService
from flowbed.services.chroma.rows import RowService
from flowbed.services.chroma.writes import WriteService

if TYPE_CHECKING:
    from flowbed.records.serving import Serving
    from flowbed.services.models import Models
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService


@dataclass(frozen=True, kw_only=True)
class ChromaService:
    """The collections and rows of a project."""

    collections: CollectionDirectory
    creation: CreationService
    rows: RowService
    writes: WriteService

    async def close(self) -> None:
        """Finish the commits that answered writes still need."""
        await self.writes.close()


def open_chroma(bed: Project, models: Models, quotas: QuotaService, serving: Serving) -> ChromaService:
    """Open the service over a project; nothing is read yet."""
    reader = bed.reader()
    directory = CollectionDirectory(bed.store, reader, monotonic=time.monotonic)
    rows = RowService(directory, reader, models=models, quotas=quotas, serving=serving)
    writes = WriteService(bed, rows, reader, serving)
    creation = CreationService(bed, directory, rows, writes)
    return ChromaService(collections=directory, creation=creation, rows=rows, writes=writes)
