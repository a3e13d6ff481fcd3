"""What a search in a new process does not load: imports are most of the time it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

RUN = "import flowbed\nwith flowbed.open('.') as bed:\n    bed.run()\n    bed.compact(vector_index='always')"
SEARCH = """
import sys, flowbed
with flowbed.open('.') as bed:
    print(len(bed.search([1.0] * 8, **HOW)))
print(*sys.modules)
"""
# Each takes 10 ms or more, or imports something that does.
NEEDLESS = {
    "alembic",
    "fastapi",
    "flowbed.chunking",
    "flowbed.wiring.sources",
    "flowbed.index.commit",
    "flowbed.index.compaction",
    "flowbed.index.deltas",
    "flowbed.records.documents",
    "flowbed.records.reports",
    "flowbed.sources",
    "lance",
    "numpy.ma",
    "obstore",
    "onnxruntime",
    "prometheus_client",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pydantic",
    "pydantic_settings",
    "rich",
    "sqlalchemy",
    "structlog",
    "tokenizers",
    "tomlkit",
    "typer",
}


def ran(code: str, folder: Path) -> str:
    """Run `code` in a new process without FLOWBED_ variables, and return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a few notes and a vector index."""
    folder = tmp_path_factory.mktemp("cold")
    (folder / "flowbed.toml").write_text(
        'model = "seeded:8"\n[sources.notes]\nkind = "files"\nlocation = "notes"\n'
    )
    (folder / "notes").mkdir()
    for number in range(40):
        (folder / "notes" / f"{number}.md").write_text(f"note {number}")
    ran(RUN, folder)
    return folder


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"collection": "notes"}, id="one collection"),
        pytest.param({}, id="all collections"),
        pytest.param({"where": {"source": "notes"}}, id="filter"),
        pytest.param({"unit": "document"}, id="documents"),
        pytest.param({"limit": 100}, id="many"),
    ],
)
def test_search_new_process_loads_only_what_it_needs(project: Path, how: dict[str, Any]) -> None:
    """A search by vector in a new process loads none of them, whatever its arguments."""
    told = ran(SEARCH.replace("HOW", repr(how)), project).splitlines()
    assert told[0] == str(min(40, how.get("limit", 10)))
    assert NEEDLESS & set(told[1].split()) == set()
