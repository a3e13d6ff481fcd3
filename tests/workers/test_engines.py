"""Engines: the contract, for the one of one process, and the durable one over SQLite and Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from flowbed.testing.engines import EngineContract
from flowbed.wiring.process import now
from flowbed.workers import VERSION
from flowbed.workers.engines.durable.opening import open_durable
from flowbed.workers.engines.local import open_local

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.servers.postgres import PostgresServer

    from flowbed.workers import CarryOut, Engine, Limits
    from flowbed.workers.engines.durable.engine import DurableEngine


class TestLocal(EngineContract):
    _open: ClassVar[list[Any]] = []
    durable = False

    @classmethod
    async def open(
        cls, worker: str, queues: Mapping[str, Limits], carry_out: CarryOut, *, version: str = VERSION
    ) -> Engine:
        return await open_local(worker, queues, carry_out, clock=now, version=version)


class Durable(EngineContract):
    url: ClassVar[str]

    @classmethod
    async def open(
        cls, worker: str, queues: Mapping[str, Limits], carry_out: CarryOut, *, version: str = VERSION
    ) -> DurableEngine:
        return await open_durable(
            worker, queues, carry_out, url=cls.url, name="flowbed-test", clock=now, version=version
        )


@pytest.mark.long
class TestSqlite(Durable):
    _open: ClassVar[list[Any]] = []

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _place(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.url = f"sqlite:///{tmp_path_factory.mktemp('engine')}/engine.db"


class TestPostgres(Durable):
    _open: ClassVar[list[Any]] = []

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _place(cls, postgres: PostgresServer) -> None:
        cls.url = postgres.database()
