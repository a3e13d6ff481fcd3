"""The public API as a type checker sees it, in programs of users."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import flowbed

# mypy looks only at what is on the path of the interpreter, as it does for a user who installed Flowbed.
PATH = str(Path(flowbed.__file__).parent.parent)

CORRECT = """
import asyncio
from pathlib import Path

import flowbed


def synchronous(folder: Path) -> dict[str, int]:
    with flowbed.open(folder) as bed:
        bed.add("handbook", kind="files", location="docs/", collection="docs", options={"glob": "*.md"})
        plan: flowbed.Plan = bed.plan("handbook", lane="auto", deadline=3600)
        report: flowbed.Report = bed.run(plan=plan.plan_id, budget=0.5, wait=True)
        hits: tuple[flowbed.Hit, ...] = bed.search("keys", collection="docs", where={"source": "x"}, limit=3)
        scores: list[float] = [hit.score for hit in hits]
        found = bed.find([0.1, 0.2], unit="document")
        titles: list[str] = [hit.document for hit in found.hits]
        rows: int = sum(collection.rows for collection in bed.status().collections.values())
        newest: int = bed.versions("docs")[0].version
        bed.rollback("docs", newest)
        waiting: list[str] = [row.id for row in bed.submissions(live=True)]
        bed.submit(*waiting)
        print(scores, titles, rows, report.embedded)
    try:
        flowbed.open(folder).run("nobody")
    except flowbed.errors.Transient as error:
        print(error)
    except (flowbed.errors.Misconfigured, flowbed.errors.NotFound) as error:
        raise SystemExit(str(error)) from error
    return dict(found.versions)


async def asynchronous(folder: str) -> str:
    async with await flowbed.aopen(folder) as bed:
        await bed.add("handbook", kind="files", location=Path("docs"))
        plan: flowbed.Plan = await bed.plan()
        report: flowbed.Report = await bed.run("handbook", limit=10, lane="realtime")
        hits: tuple[flowbed.Hit, ...] = await bed.search("keys", at=report.versions["handbook"])
        pending: tuple[str, ...] = (await bed.status()).pending
        newest: int = (await bed.versions("handbook"))[0].version
        await bed.rollback("handbook", newest)
        lane = plan.lanes["realtime"]
        cost: float = lane.cost_usd if lane else 0.0
        print(pending, cost, await bed.submissions())
        return hits[0].id


print(synchronous(Path("project")), asyncio.run(asynchronous("project")), flowbed.__version__)
"""

# Each line is wrong, in the way that the comment says.
WRONG = """
import flowbed

bed = flowbed.open("project")
bed.add("handbook", kind="files")  # call-arg
bed.run(budgett=1)  # call-arg
bed.run(lane="cheap")  # arg-type
bed.search("keys", limit="many")  # arg-type
bed.search(7)  # arg-type
bed.versions()  # call-arg
bed.plan().plan_idd  # attr-defined
hits: int = bed.search("keys")  # assignment
bed.searhc("keys")  # attr-defined
"""


# No type of theirs is in the public API, and to read their code takes mypy five times as long as the rest.
UNREAD = (
    "aiohttp alembic anyio boto3 botocore chromadb click fastapi httpx lance mcp multidict onnxruntime openai"
    " opentelemetry psycopg pyarrow pydantic pydantic_core redis rich sqlalchemy starlette structlog"
    " tokenizers typer yarl"
)
CONFIGURATION = f"""
[mypy]
strict = true
show_error_context = false
[mypy-{",".join(f"{name}.*" for name in UNREAD.split())}]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Check both programs with `mypy --strict`, at once, for that costs as much as one; give its lines by program."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {"correct.py": CORRECT, "wrong.py": WRONG}
    for name, content in {**programs, "mypy.ini": CONFIGURATION}.items():
        (folder / name).write_text(content)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *programs],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    return {name: [line for line in lines if line.startswith(name)] for name in programs}


def test_types_correct_program_passes_mypy_strict(reported: dict[str, list[str]]) -> None:
    assert reported["correct.py"] == []


def test_types_wrong_arguments_are_reported_line_by_line(reported: dict[str, list[str]]) -> None:
    expected = [
        (str(number), line.rpartition("# ")[2])
        for number, line in enumerate(WRONG.splitlines(), 1)
        if "# " in line
    ]
    errors = [line for line in reported["wrong.py"] if ": error: " in line]
    assert [(line.split(":")[1], line.rpartition("[")[2].rstrip("]")) for line in errors] == expected


def test_package_contains_the_marker_of_typed_packages() -> None:
    """Without `py.typed` type checkers ignore every annotation of an installed package."""
    assert resources.files("flowbed").joinpath("py.typed").is_file()
