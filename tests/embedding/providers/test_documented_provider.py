"""The third-party provider of docs/providers.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "providers.md").read_text("utf-8")


def block(language: str, name: str) -> str:
    """Return the page's block after a file's name, or the one that begins with a line."""
    for found in re.finditer(
        rf"^(?:`(?P<file>\S+)`:\n\n)?```{language}\n(?P<code>.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    ):
        if found["file"] == name or found["code"].startswith(name):
            return found["code"]
    raise AssertionError(f"the page has no {language} block {name}")


def test_documented_provider_passes_the_contract(tmp_path: Path) -> None:
    """Its module, its entry point and its test are taken from the page, and run as another package's would be."""
    for name in ("acme_flowbed.py", "test_acme.py"):
        (tmp_path / name).write_text(block("python", name))
    described = tmp_path / "acme_flowbed-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-flowbed\nVersion: 1.0\n")
    line = block("toml", '[project.entry-points."flowbed.embedders"]').splitlines()[1].replace('"', "")
    (described / "entry_points.txt").write_text(f"[flowbed.embedders]\n{line}\n")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_acme.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 40
