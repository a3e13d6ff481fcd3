"""What docs/simulators.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from flowbed.testing.simulators.faults import Kind

PAGE = (Path(__file__).parents[3] / "docs" / "simulators.md").read_text()


@pytest.mark.parametrize(
    "example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), ids=["first", "jobs"]
)
async def test_the_examples_pass(example: str) -> None:
    """The tests that the page shows pass as they stand there."""
    scope: dict[str, Any] = {}
    exec(example, scope)  # noqa: S102 - the page is our own
    (test,) = (each for name, each in scope.items() if name.startswith("test_"))
    await test()


def test_every_fault_is_described() -> None:
    """The table of faults has a row for each kind, and for nothing else."""
    table = PAGE.partition("## Faults")[2].partition("A fault strikes")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Kind))
