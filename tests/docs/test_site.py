"""The documentation builds as a site, without a broken link and without the network."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

ROOT = Path(__file__).parents[2]
MKDOCS = ROOT / ".tools" / "site" / "bin" / "mkdocs"
# What a page loads by itself; links that a reader follows are not meant.
LOADED = re.compile(r'<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]+)')


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(
    lacking: Callable[[str], NoReturn], tmp_path: Path
) -> None:
    """A link or anchor that leads nowhere, and a page that the menu lacks, are errors."""
    if not MKDOCS.exists():
        lacking(".tools/site is not there: make tools")
    done = subprocess.run(
        [MKDOCS, "build", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert (tmp_path / "site" / "reference.html") in pages
    assert {page.name: LOADED.findall(page.read_text("utf-8")) for page in pages} == {
        page.name: [] for page in pages
    }
    reference = (tmp_path / "site" / "reference.html").read_text("utf-8")
    assert 'id="flowbed.bed.Flowbed.search"' in reference
