"""The commands and examples in the README work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.docs.conftest import variables

if TYPE_CHECKING:
    from tests.docs.conftest import Shell

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> dict[str, Any]:
    from flowbed.cli.app import command_line

    return dict(command_line().commands)  # type: ignore[attr-defined]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Give an empty folder."""
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


def run_alone(program: str, folder: Path) -> str:
    """Run a program as a new user does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_readme_python_example_runs_in_an_empty_folder(outside: Path) -> None:
    """It finds the text that it searches for, also when it is run again."""
    (block,) = [block for block in blocks("python") if "flowbed.open(" in block]
    for texts in ("1 texts embedded", "0 texts embedded"):
        said = run_alone(block, outside)
        assert texts in said
        assert "handbook#keys.md#00000 Keys are rotated every Monday." in said


def test_readme_openai_client_example_runs(outside: Path, in_shell: Shell, commands: Path) -> None:
    (block,) = [block for block in blocks("python") if "from openai import" in block]
    in_shell(outside, "flowbed init")
    serving = subprocess.Popen(
        [str(commands / "flowbed"), "serve", "--port", "0", "--json"],
        cwd=outside,
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        done: dict[str, Any] = {}
        exec(compile(block.replace("http://127.0.0.1:8080", url), "README.md", "exec"), done)  # noqa: S102 - our own
        assert [len(each.embedding) for each in done["answer"].data] == [384, 384]
        done["client"].close()
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


def test_readme_shell_example_runs_in_an_empty_folder(outside: Path, in_shell: Shell) -> None:
    (block,) = [block for block in blocks("sh") if "flowbed run" in block]
    said = in_shell(outside, block)
    assert "Keys are rotated every Monday." in said
    assert "The reader at the front door is broken." in said


def test_readme_every_block_is_run() -> None:
    """All are run here, but those that install Flowbed, and the first two, which the benchmark `start` runs."""
    run = [block for block in blocks("sh") if "pip install ." not in block and "make demo" not in block]
    assert len(run) == 1
    assert len(blocks("python")) == 2


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
