"""docs/python.md: its blocks run in an empty folder, in order, and it names every public method."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from flowbed import errors
from flowbed.bed import Flowbed
from flowbed.blocking import Blocking

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_python_page_blocks_run_in_an_empty_folder(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")}
    (tmp_path / "empty").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS)],
        cwd=tmp_path / "empty",
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "handbook#keys.md#00000 # Keys" in ran.stdout or "handbook#keys.md#00000 Keys" in ran.stdout
    assert "no row has" in ran.stdout
    assert "handbok" in ran.stdout


def public(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls) if not name.startswith("_")}


def test_python_page_names_every_public_method_and_error() -> None:
    named = set(re.findall(r"`(?:bed\.)?(\w+)`", PAGE))
    assert public(Flowbed) | public(Blocking) <= named
    classes = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if name != "Error"}
    assert classes <= named
