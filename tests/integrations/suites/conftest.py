"""A project for the suites of frameworks; they run in the environment that `make clients` makes for them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowbed.blocking import Blocking

PAGE = Path(__file__).parents[3] / "docs" / "frameworks.md"


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    """Yield a project whose model computes vectors from texts, with one indexed folder."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "flowbed.toml").write_text('model = "seeded:768"\n')
    (folder / "handbook").mkdir()
    (folder / "handbook" / "keys.md").write_text("Keys are rotated every Monday.\n")
    with flowbed.open(folder) as opened:
        opened.add("handbook", kind="files", location="handbook")
        opened.run()
        yield opened


@pytest.fixture
def run_block_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run the block of the page of frameworks below a heading, in an empty folder."""
    for name in [name for name in os.environ if name.startswith("FLOWBED_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(heading: str) -> None:
        section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        exec(compile(block, f"{PAGE.name}: {heading}", "exec"), {})  # noqa: S102 - our own page

    return run
