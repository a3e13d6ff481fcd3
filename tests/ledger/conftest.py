"""SQL ledgers that tests share, since emptying a ledger is far cheaper than creating one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from flowbed.ledger.sql import migrations
from flowbed.ledger.sql.database import Database
from flowbed.ledger.sql.ledger import SqlLedger
from flowbed.ledger.sql.postgres import Postgres
from flowbed.ledger.sql.schema import facts, metadata
from flowbed.ledger.sql.sqlite import MEMORY, Sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa
    from tests.support.servers.postgres import PostgresServer

EmptyLedger = Callable[[str], Awaitable[SqlLedger]]


@pytest.fixture(scope="session")
def empty_ledger(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmptyLedger]:
    """Return a function that empties and returns the shared ledger of a kind (`file`, `memory` or `postgres`).

    Tests must not close it.
    """
    databases: dict[str, Database] = {}

    async def create(kind: str) -> Database:
        if kind == "postgres":
            server: PostgresServer = request.getfixturevalue("postgres")
            database = Database(Postgres(server.database()))
        else:
            file = str(tmp_path_factory.mktemp("ledger") / "ledger.db")
            database = Database(Sqlite(file if kind == "file" else MEMORY))
        await database.write(
            lambda connection: migrations.upgrade(connection, database.location, new_id="0" * 32)
        )
        return database

    async def empty(kind: str) -> SqlLedger:
        if kind not in databases:
            databases[kind] = await create(kind)
        await databases[kind].write(delete_all)
        return SqlLedger(databases[kind], id="0" * 32)

    yield empty
    for database in databases.values():
        asyncio.run(database.close())


def delete_all(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:
        if table is facts:
            connection.execute(table.delete().where(facts.c.name != "id"))
        else:
            connection.execute(table.delete())


# Tests of contracts that write hundreds of items one by one, which takes the emulator of DynamoDB seconds each.
SLOW_IN_DYNAMODB = {
    "test_add_concurrent_loses_nothing",
    "test_claim_concurrent_gives_each_job_once",
    "test_batches_lists_more_than_a_page",
    "test_gathered_looks_up_many_texts_at_once",
    "test_list_returns_up_to_the_limit",
    "test_marks_lists_every_chunk_in_order",
    "test_pages_abandoned_does_not_block_swap",
    "test_pages_lists_every_unfinished_job",
    "test_pages_lists_more_than_a_page",
    "test_submitted_lists_more_than_a_page",
    "test_swap_large_page_is_atomic",
    "test_swap_racing_fetchers_lose_nothing",
}
# Aggregates whose code is that of the ledger in memory, on another table.
SHARED_WITH_MEMORY = {"TestFiles", "TestIndexJobs", "TestJobs", "TestVectorStores"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave those to `make torture`."""
    for item in items:
        if item.path.name != "test_dynamodb_contract.py":
            continue
        if item.name in SLOW_IN_DYNAMODB or SHARED_WITH_MEMORY.intersection(item.nodeid.split("::")):
            item.add_marker(pytest.mark.long)
