"""The work of vector stores as a stage, whose tasks are the ids of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Transient
from flowbed.records.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.services.vector_stores.processing import StoreProcessing

WORKFLOW, QUEUE = "vector_store", "vector_stores"
# Stores that one process works on at a time: each has its own commits, and files of one are read one by one.
AT_ONCE = 4


def task_of(store: str) -> Task:
    """Return the task of a store that has work."""
    return Task(workflow=WORKFLOW, key=store, queue=QUEUE)


class VectorStoreWork:
    """`Stage` that indexes attached files, changes their attributes, and deletes what is to be deleted."""

    workflow = WORKFLOW

    def __init__(self, processing: StoreProcessing) -> None:
        """Do the work of `processing`."""
        self._processing = processing

    async def waiting(self) -> Sequence[Task]:
        """Return the stores that have work."""
        return [task_of(store) for store in await self._processing.due()]

    async def run(self, key: str) -> Sequence[Task]:
        """Do what a store has to do."""
        if not await self._processing.process(key):
            raise Transient(f"files of vector store {key} wait, because no provider takes their texts now")
        return ()
