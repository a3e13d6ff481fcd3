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


@pytest.mark.parametrize(("framework", "least"), [("haystack", 45), ("langchain", 40), ("llamaindex", 17)])
def test_suite_of_a_framework_passes_over_a_project(
    lacking: Callable[[str], NoReturn], framework: str, least: int
) -> None:
    """Not one of at least so many tests is skipped."""
    if not PYTHON.exists():
        lacking(".clients/frameworks is not there: make clients")
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", ".", f"test_{framework}.py"],
        cwd=SUITES,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HAYSTACK_TELEMETRY_ENABLED": "False"},
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


def test_page_of_frameworks_blocks_run_in_an_empty_folder(
    lacking: Callable[[str], NoReturn], tmp_path: Path
) -> None:
    if not PYTHON.exists():
        lacking(".clients/frameworks is not there: make clients")
    page = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")}
    for block in blocks:
        done = subprocess.run(
            [PYTHON, "-c", block],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT / "src"), "HAYSTACK_TELEMETRY_ENABLED": "False"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
