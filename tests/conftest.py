"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# Contracts live in the package, for third parties too; this makes pytest explain their failed assertions.
pytest.register_assert_rewrite("flowbed.testing")

ROOT = Path(__file__).parent.parent

# A test machine may be slow and shared: no example fails for taking long, and CI runs the same examples each time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], NoReturn]:
    """Give the way out of a test that this machine cannot run: skipped in plain sight, but a failure with CI=true."""

    def say(what: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)

    return say


@pytest.fixture(scope="session")
def data(lacking: Callable[[str], NoReturn]) -> Path:
    """Give the folder of real data: FLOWBED_TEST_DATA, or `../shared/data` beside the repository."""
    named = os.environ.get("FLOWBED_TEST_DATA")
    folder = Path(named) if named else ROOT / ".." / "shared" / "data"
    if not folder.is_dir():
        lacking(f"no test data at {folder.resolve()}: set FLOWBED_TEST_DATA")
    return folder.resolve()
