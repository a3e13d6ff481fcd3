"""Opens what rows are imported from, and the scratch folder in which a child process reads them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed import settings
from flowbed.errors import Misconfigured, NotFound, OutOfSpace
from flowbed.pipeline.importing import import_rows
from flowbed.publish.reading import PAGE
from flowbed.publish.reading.archives import DATABASE
from flowbed.publish.reading.child import Job
from flowbed.publish.reading.directory import ChromaDirectory
from flowbed.publish.reading.jsonl import JsonLines
from flowbed.publish.reading.parquet import ParquetFiles
from flowbed.publish.reading.server import ChromaServer
from flowbed.storage.atomic import FULL
from flowbed.wiring.contexts import keeping
from flowbed.wiring.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.lanes.contexts import RunContext
    from flowbed.pipeline.importing import Imported
    from flowbed.publish.reading import RowReader
    from flowbed.records import Space
    from flowbed.wiring.models import Embedders

# How the names of files with JSON Lines end.
JSON_LINES = {".jsonl", ".ndjson"}


async def import_into(
    context: RunContext,
    embedders: Embedders,
    location: str,
    *,
    folder: Path,
    collection: str,
    space: str | None,
    name: str,
    check: bool,
) -> Imported:
    """Import the rows at a location into a collection; `space` names another model than the project's.

    Raises:
        Rejected, NotFound, Misconfigured, Transient: as `Flowbed.import_rows`.
    """
    # Vectors of the project's model feed its cache; another model has none here.
    own = await embedders.live() if space is None else None
    model: Embedder = own if own is not None else await embedders.open(str(space))

    async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return (await model.embed(texts, purpose="document")).vectors

    with scratch(folder) as place:
        reader = await asyncio.to_thread(_open_reader, location, name, folder, place, model.space)
        return await import_rows(
            reader,
            context,
            collection=collection,
            space=model.space,
            embed=embed if check else None,
            keep=keeping(own) if own is not None and check else None,
        )


def _open_reader(location: str, name: str, folder: Path, place: Path, space: Space) -> RowReader:
    if location.startswith(("http://", "https://")):
        tenant, database = settings.chroma_database()
        return ChromaServer(
            url=location, collection=name, token=settings.chroma_token(), tenant=tenant, database=database
        )
    if "://" in location:
        raise NotFound(
            f"an import cannot read {location}: copy it to this machine first, or name a Chroma server"
        )
    path = folder / Path(location).expanduser()
    if path.is_file() and path.suffix in JSON_LINES:
        return JsonLines(file=path)
    if path.is_file() or sorted(path.glob("*.parquet")):
        return ParquetFiles(files=[path] if path.is_file() else sorted(path.glob("*.parquet")))
    if not (path / DATABASE).is_file():
        raise NotFound(
            f"{path} is neither a Chroma directory (it has no {DATABASE}), nor a file of JSON Lines, nor a Parquet"
            " file or a folder of those"
        )
    copy = place / "chroma"
    job = Job(folder=str(copy), collection=name, checked=False, unit=space.normalized, page=PAGE)
    return ChromaDirectory(job=job, scratch=place, prepare=lambda: _copy(path, copy))


def _copy(path: Path, copy: Path) -> None:
    try:
        # chromadb opens no directory read-only: it would upgrade this one, and another process may be using it.
        shutil.copytree(path, copy)
    except OSError as error:
        # `shutil.Error`, which has no number, names every file that failed, with the reason.
        if error.errno in FULL or os.strerror(errno.ENOSPC) in str(error):
            raise OutOfSpace(
                f"no space left to copy {path} to {copy.parent}: free some and import again"
            ) from error
        raise Misconfigured(f"{path} cannot be copied to {copy.parent}: {error}") from error
