"""The tools that check deploy/, in the environment that `make tools` makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

ROOT = Path(__file__).parent.parent.parent
TOOLS = ROOT / ".tools" / "deploy" / "bin"


@pytest.fixture(scope="session")
def tool(lacking: Callable[[str], NoReturn]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a tool, and return how it ended and what it printed."""
    if not TOOLS.exists():
        lacking(".tools/deploy is not there: make tools")

    def run(name: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TOOLS / name, *arguments], input=given, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture(scope="session")
def check(tool: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Run one of checks.py, and return its JSON."""

    def run(*arguments: str) -> Any:
        done = tool("python", str(Path(__file__).parent / "checks.py"), *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
