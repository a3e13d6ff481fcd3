"""Collections published in other forms, and downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.publish import PublishReport
    from flowbed.publish.chroma.pull import Pulled, StorageMode
    from flowbed.publish.records import Record


class Publishing(Loop):
    """Collections published in other forms, and downloaded."""

    def publish(self, collection: str | None = None, *, reconcile: bool = False) -> PublishReport:
        """Publish the newest version of a collection, or of all, to every publication of the settings that has it.

        With `reconcile`, what is published is compared with the index, and differences are fixed. A publication that
        fails does not stop the others.

        Raises:
            NotFound: there is no such collection.
            Misconfigured: the settings have no publication of it.
        """
        return self._wait(self._bed.publish(collection, reconcile=reconcile))

    def pull(self, collection: str, directory: str | Path, *, mode: StorageMode | None = None) -> Pulled:
        """Download the current Chroma snapshot of a collection into `directory`/VERSION, checked, and whole or absent.

        `mode` is where it comes from: the store (`s3`), a shared file system (`efs`), or `auto`. Default: the variable
        `CHROMADB_STORAGE_MODE`, or `auto`. Open the `path` of the result with `chromadb.PersistentClient`.

        Raises:
            NotFound: nothing is published.
            Misconfigured: the mode cannot be used.
        """
        return self._wait(self._bed.pull(collection, directory, mode=mode))

    def publications(self) -> list[Record]:
        """List what was published last, by publication and collection; no server is asked."""
        return self._wait(self._bed.publications())
