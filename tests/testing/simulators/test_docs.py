"""What docs/simulators.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from flowbed.testing.simulators.faults import Kind

PAGE = (Path(__file__).parents[3] / "docs" / "simulators.md").read_text()


async def test_the_example_passes() -> None:
    """The test that the page shows passes as it stands there."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)  # noqa: S102 - the page is our own
    await scope["test_a_rate_limit_is_waited_for"]()


def test_every_fault_is_described() -> None:
    """The table of faults has a row for each kind, and for nothing else."""
    table = PAGE.partition("## Faults")[2].partition("A fault strikes")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Kind))
