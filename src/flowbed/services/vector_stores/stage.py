"""The work of vector stores as a stage, whose tasks are the ids of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Transient
from flowbed.records.tasks import Task
from flowbed.services.vector_stores.processing import Worked
from flowbed.services.vector_stores.turns import StoreTurns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.services.vector_stores.processing import StoreProcessing

WORKFLOW, QUEUE = "vector_store", "vector_stores"
# Stores that one process works on at a time: each has its own commits, and files of one are read one by one.
AT_ONCE = 4
# Tasks that one look into the ledger makes.
FOUND_MOST = 64


def task_of(store: str) -> Task:
    """Return the task of a store that has work."""
    return Task(workflow=WORKFLOW, key=store, queue=QUEUE)


class VectorStoreWork:
    """`Stage` that indexes attached files, changes their attributes, and deletes what is to be deleted.

    A task only says that there is work: which store is worked on is decided by whose turn it is.
    """

    workflow = WORKFLOW

    def __init__(self, processing: StoreProcessing) -> None:
        """Do the work of `processing`."""
        self._processing, self._turns = processing, StoreTurns()

    async def waiting(self) -> Sequence[Task]:
        """Return the stores that have work."""
        return [task_of(row.id) for row in (await self._processing.due())[:FOUND_MOST]]

    async def run(self, key: str) -> Sequence[Task]:
        """Do, for one turn, what the store has to do whose turn it is; return it again if it has more."""
        due = await self._processing.due()
        row = self._turns.next(due, self._processing.is_free)
        if row is None:
            return ()
        with self._turns.taken(row):
            worked = await self._processing.process(row.id)
        if worked is Worked.WAITS:
            raise Transient(f"files of vector store {row.id} wait, because no provider takes their texts now")
        # The store of the task may have waited for another one.
        waiting = {each.id for each in due if worked is Worked.GOES_ON or each.id != row.id}
        return [task_of(each) for each in sorted({key, row.id} & waiting)]
