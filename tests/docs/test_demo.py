"""The demo runs to its end, and shows what it says."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace

import pytest

DEMO = Path(__file__).parents[2] / "demo" / "run.py"


Run = Callable[[Path], tuple[int, str]]


@pytest.fixture
def run(commands: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return how to run the demo with little text and commands that are forked; returns the status and the output."""
    for name in [name for name in os.environ if name.startswith("FLOWBED_")]:
        monkeypatch.delenv(name)

    def run_demo(folder: Path) -> tuple[int, str]:
        scope = runpy.run_path(str(DEMO))["main"].__globals__  # what its functions see
        scope["sys"] = SimpleNamespace(executable=str(commands / "python"), stdout=sys.stdout)
        scope["topics"] = {name: topics[name] for name in ("function", "with", "yield")}
        scope["requires"] = lambda _: ["rich", "orjson", "numpy"]
        scope["README_CHARACTERS"] = 3_000
        monkeypatch.setattr(sys, "argv", [str(DEMO), str(folder)])
        status = scope["main"]()
        return status, "".join(capfd.readouterr())

    return run_demo


def test_demo_repeated_indexes_searches_and_then_embeds_nothing(tmp_path: Path, run: Run) -> None:
    """It replaces an earlier demo, and what is indexed is found."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "made-by-the-demo").touch()
    (folder / "flowbed.toml").write_text("left by an earlier demo, and no TOML", encoding="utf-8")
    status, said = run(folder)
    assert status == 0, said
    check(said)


@pytest.mark.long
def test_demo_with_all_its_text_is_small_enough_to_be_quick(tmp_path: Path) -> None:
    """It indexes at most 1,500 chunks and finds them, as `make demo` does."""
    command = [sys.executable, str(DEMO), str(tmp_path / "demo")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert 500 <= check(done.stdout) <= 1_500


def check(said: str) -> int:
    """Check what the demo printed, and return the number of chunks."""
    assert "invented for this demo" in said
    new = re.search(r"to index: ([\d,]+) new", said)
    assert new is not None
    first, second = re.findall(r"embedded ([\d,]+) texts", said)
    assert first != "0"
    assert second == "0"
    best = re.findall(r"^\$ flowbed search .*\n +\d\.\d+ +(\S+) +\[(\w+)\]\n +(.*)", said, re.MULTILINE)
    assert [collection for _, collection, _ in best] == ["topics", "lines", "readmes"]
    assert "efault parameter values" in best[0][2]
    assert "IBUPROFEN" in best[1][2]
    assert best[2][0].startswith("readmes#rich.md#")
    return int(new[1].replace(",", ""))


def test_demo_folder_with_other_files_is_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work", encoding="utf-8")
    status, said = run(tmp_path)
    assert status == 2
    assert "something other" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_without_the_model_says_how_to_install_it(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops at the first command that needs the model."""
    monkeypatch.setenv("FLOWBED_MODEL", "onnx:not-here/at-all")
    status, said = run(tmp_path / "demo")
    assert status == 2
    assert "was not found" in said
    assert "The demo stops here" in said


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
