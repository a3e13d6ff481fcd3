"""The examples and the table of faults in docs/simulators.md."""

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
async def test_docs_examples_pass(example: str) -> None:
    scope: dict[str, Any] = {}
    exec(example, scope)  # noqa: S102 - the page is our own
    (test,) = (each for name, each in scope.items() if name.startswith("test_"))
    await test()


def test_docs_table_has_every_fault() -> None:
    table = PAGE.partition("## Faults")[2].partition("Choose the requests")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Kind))
