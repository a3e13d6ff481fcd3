"""A project for the suites of frameworks; they run in the environment that `make clients` makes for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import flowbed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.blocking import Blocking


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
