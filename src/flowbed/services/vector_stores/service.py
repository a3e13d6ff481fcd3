"""The services of vector stores, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.services.vector_stores.attached import AttachedFiles
from flowbed.services.vector_stores.processing import StoreProcessing
from flowbed.services.vector_stores.searching import StoreSearch
from flowbed.services.vector_stores.stage import task_of
from flowbed.services.vector_stores.stores import StoreService
from flowbed.sources.extraction.process import Limits, Parsers

if TYPE_CHECKING:
    from flowbed.records.serving import Serving
    from flowbed.services.files import FileService
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService
    from flowbed.services.search import SearchService
    from flowbed.services.stages import Hints


@dataclass(frozen=True, kw_only=True)
class VectorStoreService:
    """Stores, their files, searches, and the work that they need in the background."""

    stores: StoreService
    files: AttachedFiles
    search: StoreSearch
    processing: StoreProcessing
    parsers: Parsers

    def close(self) -> None:
        """End the process that parses files."""
        self.parsers.close()


def _names_of(spec: str, serving: Serving) -> frozenset[str]:
    """Return the names that a served model has."""
    names = {spec, spec.partition(":")[2]}
    return frozenset(names | {alias for alias, name in serving.aliases.items() if name in names})


def open_vector_stores(
    bed: Project,
    files: FileService,
    quotas: QuotaService,
    searches: SearchService,
    serving: Serving,
    hints: Hints,
) -> VectorStoreService:
    """Open the services; files are parsed in a process that starts with the first one."""
    parsers = Parsers(Limits())
    stores = StoreService(
        bed.ledger.vector_stores,
        bed.ledger.vector_store_files,
        clock=bed.clock,
        secret=bed.secret,
        models=_names_of(bed.model, serving),
        model=bed.model,
        tell=lambda store: hints(task_of(store)),
    )
    attached = AttachedFiles(bed.ledger, stores, files, bed.reader, clock=bed.clock, secret=bed.secret)
    return VectorStoreService(
        stores=stores,
        files=attached,
        search=StoreSearch(bed, bed.ledger.vector_store_files, stores, searches),
        processing=StoreProcessing(bed, quotas, parsers),
        parsers=parsers,
    )
