"""Each framework's own tests pass over a project, with the real packages."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".clients" / "frameworks" / "bin" / "python"
SUITES = Path(__file__).parent / "suites"
VARIABLES = {"PYTHONPATH": str(ROOT / "src"), "HAYSTACK_TELEMETRY_ENABLED": "False"}


@pytest.mark.parametrize(("framework", "least"), [("haystack", 46), ("langchain", 41), ("llamaindex", 18)])
def test_suite_of_a_framework_passes_over_a_project(
    lacking: Callable[[str], NoReturn], framework: str, least: int
) -> None:
    """Not one of at least so many tests is skipped."""
    if not PYTHON.exists():
        lacking(".clients/frameworks is not there: make clients")
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", ".", f"test_{framework}.py"],
        cwd=SUITES,
        env={**os.environ, **VARIABLES, "PYTEST_ADDOPTS": ""},  # those of this run are not for theirs
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed( in|,)", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= least
    assert "skipped" not in done.stdout


def test_page_of_frameworks_has_a_block_for_each_suite() -> None:
    """The suite of a framework runs its block, since loading the framework takes seconds."""
    page = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
    blocks = re.findall(r"^## (\w+)\n(?:(?!^## ).*\n)*?```python$", page, re.MULTILINE)
    assert blocks == re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert {f"test_{each.lower()}.py" for each in blocks} == {each.name for each in SUITES.glob("test_*.py")}
    assert page.count("```python\n") == len(blocks)
