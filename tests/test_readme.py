"""The commands and examples in the README work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> dict[str, Any]:
    from flowbed.cli.app import command_line

    return dict(command_line().commands)  # type: ignore[attr-defined]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with what the README takes for granted, and a model that needs no weights."""
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:64")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for folder in (tmp_path / "handbook", tmp_path / "my-project" / "docs"):
        folder.mkdir(parents=True)
        (folder / "keys.md").write_text("# Keys\n\nKeys are rotated every Monday.\n", encoding="utf-8")
    shutil.copyfile(ROOT / "demo" / "receipts.jsonl", tmp_path / "receipts.jsonl")
    return tmp_path


def test_readme_python_examples_run(
    outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each finds the text that it searches for."""
    monkeypatch.chdir(outside)
    found = [block for block in blocks("python") if "flowbed.open(" in block]
    assert found
    for block in found:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own example
    assert "Keys are rotated every Monday." in capsys.readouterr().out


def test_readme_openai_client_example_runs(outside: Path) -> None:
    (block,) = [block for block in blocks("python") if "from openai import" in block]
    names = re.findall(r'model="([^"]+)"', block)
    aliases = json.dumps(dict.fromkeys(names, "seeded:64"))
    (outside / "flowbed.toml").touch()
    serving = subprocess.Popen(
        [sys.executable, "-m", "flowbed", "serve", "--port", "0", "--json"],
        cwd=outside,
        env={**os.environ, "FLOWBED_SERVE__ALIASES": aliases},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        done: dict[str, Any] = {}
        exec(compile(block.replace("http://127.0.0.1:8080", url), "README.md", "exec"), done)  # noqa: S102 - our own
        assert len(done["answer"].data) == 2
        done["client"].close()
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


def test_readme_shell_example_runs(outside: Path) -> None:
    (block,) = [block for block in blocks("sh") if "flowbed run" in block]
    done = subprocess.run(["bash", "-ec", block], cwd=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Keys are rotated every Monday." in done.stdout
    assert "NORTHGATE HARDWARE" in done.stdout


def test_readme_command_table_equals_the_help() -> None:
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `flowbed ([a-z-]+)", table, re.MULTILINE)
    assert sorted(named) == sorted(commands())


def test_readme_commands_and_options_exist() -> None:
    lines = [line for block in (*blocks("console"), *blocks("sh")) for line in block.splitlines()]
    shown = [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("flowbed ")]
    assert shown
    for line in shown:
        command = commands()[line.split()[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        used = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", line)))
        assert used <= known, line
