"""Collections published in other forms, and downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from flowbed.publish import PublishReport
    from flowbed.publish.chroma.pull import Pulled, StorageMode
    from flowbed.publish.records import Record


class Publishing(OpenProject):
    """Collections published in other forms, and downloaded."""

    async def publish(self, collection: str | None = None, *, reconcile: bool = False) -> PublishReport:
        """Publish the newest version of a collection, or of all, to every publication of the settings that has it.

        With `reconcile`, what is published is compared with the index, and differences are fixed. A publication that
        fails does not stop the others.

        Raises:
            NotFound: there is no such collection.
            Misconfigured: the settings have no publication of it.
        """
        from flowbed.publish.due import publish
        from flowbed.wiring.publications import configured

        return await publish(
            configured(self.settings), self._publish_context, collection, reconcile=reconcile
        )

    async def pull(
        self, collection: str, directory: str | Path, *, mode: StorageMode | None = None
    ) -> Pulled:
        """Download the current Chroma snapshot of a collection into `directory`/VERSION, checked, and whole or absent.

        `mode` is where it comes from: the store (`s3`), a shared file system (`efs`), or `auto`. Default: the variable
        `CHROMADB_STORAGE_MODE`, or `auto`. Open the `path` of the result with `chromadb.PersistentClient`.

        Raises:
            NotFound: nothing is published.
            Misconfigured: the mode cannot be used.
        """
        from flowbed.wiring.publications import pull_snapshot

        return await pull_snapshot(self.folder, collection, Path(directory), mode=mode, store=None)

    async def publications(self) -> list[Record]:
        """List what was published last, by publication and collection; no server is asked."""
        from flowbed.publish.due import last_published
        from flowbed.wiring.publications import configured

        return await last_published(configured(self.settings), self._publish_context)
