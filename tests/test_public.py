"""The public names of the package, and what importing and using them loads."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.testing.simulators import OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
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
# Too large for a small function that only finds and submits work.
HEAVY = {"chromadb", "lance", "numpy", "onnxruntime", "pyarrow"}


def loaded_by(code: str) -> set[str]:
    """Run `code` in a new interpreter and return the vendor packages that it loads."""
    probe = f"{code}\nimport sys\nprint(*(name for name in {VENDORS!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split())


def test_public_names_are_pinned() -> None:
    """Adding or dropping a public name is a decision, made here."""
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
        "pull",
    ]


@pytest.mark.parametrize("name", flowbed.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(flowbed, name) is not None
    assert name in dir(flowbed)


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowbed.nonsense


def test_version_is_that_of_the_installed_package() -> None:
    """`flowbed.__version__` is the installed version."""
    assert flowbed.__version__ == metadata.version("flowbed")


def test_importing_the_package_loads_no_vendor() -> None:
    """`import flowbed` loads no package that is slow to import."""
    assert loaded_by("import flowbed") == set()


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Path]:
    """A project at a provider whose texts were fetched and not embedded."""
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
        yield tmp_path


BY_API = """
import asyncio
import flowbed

async def main():
    async with await flowbed.aopen({folder!r}) as bed:
        plan = await bed.plan()
        assert plan.waiting == 3, plan
        found = await bed.find_unembedded()
        assert found.texts == 3, found
        assert (await bed.submit()).submitted == found.submissions
        assert [row.id for row in await bed.submissions()] == found.submissions
        assert (await bed.status()).submissions
        assert await bed.dead_letters() == [] and await bed.spending() == []

asyncio.run(main())
"""

BY_COMMAND = """
import os
from flowbed.cli.app import run

os.chdir({folder!r})
for command in ("plan", "submissions find", "submissions submit", "submissions list", "status", "dead-letters list"):
    assert run([*command.split(), "--json"]) == 0, command
"""


@pytest.mark.parametrize("code", [pytest.param(BY_API, id="api"), pytest.param(BY_COMMAND, id="cli")])
def test_project_without_an_index_plans_and_submits_without_heavy_packages(waiting: Path, code: str) -> None:
    """Work is planned, found, submitted and listed where numpy, pyarrow, lance and ONNX Runtime are not installed."""
    assert loaded_by(code.format(folder=str(waiting))).isdisjoint(HEAVY)
