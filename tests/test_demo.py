"""The demo runs to its end, and shows what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "demo" / "run.py"


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), str(folder)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_demo_repeated_indexes_searches_and_then_embeds_nothing(tmp_path: Path) -> None:
    """It replaces an earlier demo, indexes at most 1,500 chunks and finds them."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "made-by-the-demo").touch()
    (folder / "flowbed.toml").write_text("left by an earlier demo, and no TOML", encoding="utf-8")
    done = run(folder)
    assert done.returncode == 0, done.stdout
    assert "invented for this demo" in done.stdout
    new = re.search(r"to index: ([\d,]+) new", done.stdout)
    assert new is not None
    assert 500 <= int(new[1].replace(",", "")) <= 1_500
    first, second = re.findall(r"embedded ([\d,]+) texts", done.stdout)
    assert first != "0"
    assert second == "0"
    best = re.findall(
        r"^\$ flowbed search .*\n +\d\.\d+ +(\S+) +\[(\w+)\]\n +(.*)", done.stdout, re.MULTILINE
    )
    assert [collection for _, collection, _ in best] == ["topics", "lines", "readmes"]
    assert "efault parameter values" in best[0][2]
    assert "IBUPROFEN" in best[1][2]
    assert best[2][0].startswith("readmes#rich.md#")


def test_demo_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 2
    assert "something other" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_without_the_model_says_how_to_install_it(tmp_path: Path) -> None:
    """It stops at the first command that needs the model."""
    done = run(tmp_path / "demo", FLOWBED_MODEL="onnx:not-here/at-all")
    assert done.returncode == 2
    assert "was not found" in done.stdout
    assert "The demo stops here" in done.stdout


def test_demo_receipts_words_make_up_their_lines() -> None:
    """Each word lies inside its line's box."""
    for text in DEMO.with_name("receipts.jsonl").read_text("utf-8").splitlines():
        receipt = json.loads(text)
        for line in receipt["lines"]:
            assert " ".join(word["text"] for word in line["words"]) == line["text"]
            box = line["bounding_box"]
            for word in line["words"]:
                own = word["bounding_box"]
                assert box["x"] <= own["x"]
                assert own["x"] + own["width"] <= box["x"] + box["width"]
