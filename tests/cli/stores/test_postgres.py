"""The command line on a project whose ledger is on Postgres."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.servers.postgres import PASSWORD

from flowbed.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called
    from tests.support.servers.postgres import PostgresServer


@pytest.fixture
def ledger(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the ledger, told by the environment."""
    monkeypatch.setenv("FLOWBED_LEDGER", ledger_url)
    return ledger_url


@pytest.fixture
def notes(ledger: str, project: Path, finished: Path, flowbed: Callable[..., Called]) -> Path:
    """Index the texts of the finished project with a ledger on Postgres."""
    shutil.copytree(finished / "notes", project / "notes")
    shutil.copy(finished / "flowbed.toml", project)
    assert flowbed("run").status == 0
    return project / "notes"


def test_postgres_project_runs_searches_and_keeps_no_local_ledger(
    ledger: str, notes: Path, flowbed: Callable[..., Called]
) -> None:
    found = flowbed("search", "cats", "--json").json
    assert len(found["hits"]) == 3
    status = flowbed("status", "--json").json
    assert status["chunks"] == {"SUCCESS": 3}
    again = flowbed("run", "--json").json
    assert (again["embedded"], again["chunks"], again["deleted"]) == (0, 0, 0)
    (notes / "tea.txt").write_text("Tea is served at five.\n")
    (notes / "cats.txt").unlink()
    changed = flowbed("run", "--json").json
    assert (changed["embedded"], changed["deleted"], changed["failed"]) == (1, 1, 0)
    assert flowbed("why", "notes#tea.txt#00000").status == 0
    assert not list((notes.parent / ".flowbed").glob("ledger*"))


def test_postgres_foreign_store_is_refused_without_the_password(
    ledger: str,
    notes: Path,
    flowbed: Callable[..., Called],
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWBED_LEDGER", postgres.database())
    called = flowbed("run")
    assert called.status == 2
    assert "belongs to another ledger" in called.err
    assert PASSWORD not in called.err
    assert "%20" not in called.err


def test_postgres_ledger_with_a_lost_store_is_refused(
    ledger: str, notes: Path, flowbed: Callable[..., Called]
) -> None:
    shutil.rmtree(notes.parent / ".flowbed" / "store")
    called = flowbed("run")
    assert called.status == 2
    assert "knows of chunks in another one" in called.err


def test_postgres_ledger_of_a_newer_flowbed_is_refused(
    ledger: str, notes: Path, flowbed: Callable[..., Called], postgres: PostgresServer
) -> None:
    postgres.query(ledger, "UPDATE ledger_version SET version_num = '9999'")
    called = flowbed("status")
    assert called.status == 2
    assert "upgrade Flowbed" in called.err


def test_postgres_unreachable_server_is_named_without_the_password(
    project: Path, flowbed: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flowbed("init").status == 0
    monkeypatch.setenv("FLOWBED_LEDGER", "postgresql://me:hidden@127.0.0.1:1/mine")
    called = flowbed("status")
    assert called.status in {1, 2}
    assert "postgresql://me@127.0.0.1:1/mine cannot be reached" in " ".join(called.err.split())
    assert "hidden" not in called.err


PROBE = """
import asyncio, json, pathlib, sys
from flowbed.cli.app import run
assert run(["--help"]) == 0
helped = [name for name in ("psycopg", "sqlalchemy") if name in sys.modules]
from flowbed.ledger import open_ledger
async def main():
    await (await open_ledger("l.db", folder=pathlib.Path(sys.argv[1]), new_id="i")).close()
asyncio.run(main())
opened = [name for name in ("psycopg", "sqlalchemy.dialects.postgresql") if name in sys.modules]
print(json.dumps([helped, opened]))
"""


async def test_sqlite_ledger_loads_no_postgres_driver(tmp_path: Path) -> None:
    """Help loads no SQL package at all."""
    await (await open_ledger("l.db", folder=tmp_path, new_id="i")).close()
    command = [sys.executable, "-c", PROBE, str(tmp_path)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [[], []]
