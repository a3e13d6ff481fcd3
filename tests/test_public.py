"""What the package offers at its face, and what looking at it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.testing.simulators import OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from pathlib import Path

VENDORS = (
    "aiohttp",
    "alembic",
    "chromadb",
    "fastapi",
    "lance",
    "numpy",
    "obstore",
    "onnxruntime",
    "prometheus_client",
    "pyarrow",
    "rich",
    "sqlalchemy",
    "structlog",
    "tokenizers",
    "typer",
    "uvicorn",
)
# What takes more room than there is where work is only found and handed in.
HEAVY = {"chromadb", "lance", "onnxruntime", "pyarrow"}


def loaded_by(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and name the vendors' packages that it has loaded."""
    probe = f"{code}\nimport sys\nprint(*(name for name in {VENDORS!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_public_names_are_pinned() -> None:
    """The public names are exactly these: adding or dropping one is a decision, made here."""
    assert flowbed.__all__ == [
        "Chunk",
        "Document",
        "Flowbed",
        "Hit",
        "Plan",
        "Report",
        "__version__",
        "aopen",
        "errors",
        "open",
    ]


@pytest.mark.parametrize("name", flowbed.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """Every public name can be had from the package itself."""
    assert getattr(flowbed, name) is not None
    assert name in dir(flowbed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist is refused as Python's own modules refuse it."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowbed.nonsense


def test_version_is_that_of_the_installed_package() -> None:
    """`flowbed.__version__` is the version that was installed."""
    assert flowbed.__version__ == metadata.version("flowbed")


def test_importing_the_package_loads_no_vendor() -> None:
    """`import flowbed` loads none of the packages that take long to load."""
    assert loaded_by("import flowbed") == set()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import flowbed.sources", id="sources"),
        pytest.param("import flowbed.ledger", id="ledger"),
        pytest.param(
            "import pathlib, tempfile\nfrom flowbed.storage import open_store\n"
            "open_store('file://' + tempfile.mkdtemp(), folder=pathlib.Path())",
            id="storage",
        ),
        pytest.param("import flowbed.pipeline.sync", id="sync"),
        pytest.param("import flowbed.lanes.batch.find", id="find"),
        pytest.param("import flowbed.lanes.batch.submit", id="submit"),
        pytest.param("import flowbed.cli.submissions", id="submissions"),
    ],
)
def test_finding_and_listing_work_loads_no_heavy_package(code: str) -> None:
    """Listing, finding and storing work runs where lance, pyarrow and ONNX Runtime are not installed."""
    assert loaded_by(code).isdisjoint(HEAVY)


# As a small function would that has no index at hand.
HANDED_IN = """
import asyncio, secrets, time
from pathlib import Path
from flowbed import settings
from flowbed.lanes import batch
from flowbed.lanes.contexts import ModelContext
from flowbed.wiring.models import Embedders
from flowbed.ledger import open_ledger
from flowbed.storage import open_store

async def main(folder):
    config = settings.read_settings(folder)
    ledger = await open_ledger(config.ledger, folder=folder, new_id="")
    embedders = Embedders(folder / ".flowbed", config)
    context = ModelContext(
        store=open_store(config.store, folder=folder), ledger=ledger, embedder=embedders.cached,
        batch_api=embedders.jobs, new_id=lambda: secrets.token_hex(12), clock=lambda: time.time_ns() // 1000,
        monotonic=time.monotonic, dead=lambda _: False, worker="one", sources=frozenset({{"notes"}}),
    )
    found = await batch.find.find(context, sources=["notes"])
    assert found.texts == 3, found
    assert (await batch.submit.submit(context)).submitted == found.submissions
    listed = [row.id async for page in ledger.submissions.pages(live=True) for row in page]
    assert listed == found.submissions
    await embedders.close()
    await ledger.close()

asyncio.run(main(Path({folder!r})))
"""


def test_handing_work_in_loads_no_heavy_package(tmp_path: Path) -> None:
    """A whole project's texts are found, handed to a provider and listed where none of these is installed."""
    with running_thread(Simulator(OpenAI())) as url:
        tmp_path.joinpath("flowbed.toml").write_text(
            f'model = "openai:text-embedding-3-small"\n[providers.openai]\nbase_url = "{url}/v1"\napi_key = "any"\n'
            '[sources.notes]\nkind = "jsonl"\nlocation = "notes.jsonl"\n',
            "utf-8",
        )
        notes = "".join(f'{{"id": {number}, "text": "note {number}"}}\n' for number in range(3))
        tmp_path.joinpath("notes.jsonl").write_text(notes, "utf-8")
        with flowbed.open(tmp_path) as bed:
            bed.run(limit=0)
        assert loaded_by(HANDED_IN.format(folder=str(tmp_path))).isdisjoint(HEAVY)
