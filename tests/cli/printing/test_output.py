"""Foreign text in what commands print, and streams that take not every text, or nothing any more."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.terminal import CONTROL, on_terminal

from flowbed.cli.options import Escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cli.conftest import Called

    Call = Callable[..., Called]

EVIL = (
    "# h\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m \x9b31m [/b] [bold]x[/] \U0001f996 \u202e evil Z"
    + "\u0351" * 300
)
ID = "a\u202efdp.exe"
NAME = "a\x1b[31m\nflowbed: all is well\u202e\t"


@pytest.fixture
def evil(project: Path, flowbed: Call) -> Path:
    """Run a project with a record whose text, id and metadata try to control the terminal."""
    (project / "docs.jsonl").write_text(json.dumps({"id": ID, "text": EVIL, "tag": NAME}))
    assert flowbed("init").status == 0
    assert flowbed("add", "docs", "jsonl", "docs.jsonl", "--option", "metadata=tag").status == 0
    assert flowbed("run").status == 0
    return project


def process(
    folder: Path, *arguments: str, stdout: int = subprocess.PIPE, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flowbed", *arguments],
        cwd=folder,
        env={**os.environ, **(variables or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


def is_harmless(text: str) -> bool:
    """Whether text controls nothing but the ends of lines."""
    return not any(each in text for each in "\x1b\x07\x9b\u202e\t\r") and "\u0351" * 9 not in text


@pytest.mark.parametrize(
    "arguments",
    [["search", "red"], ["why", f"docs#{ID}#00000"], ["why", "docs#nothing\x1b[2J"], ["status"]],
)
def test_command_foreign_text_cannot_control_the_terminal(
    evil: Path, flowbed: Call, arguments: list[str]
) -> None:
    called = flowbed(*arguments)
    assert is_harmless(called.out)
    assert is_harmless(called.err)
    assert "flowbed: all is well" not in called.out.splitlines()  # a name with a line break forges no line


def test_run_file_name_with_control_characters_is_one_harmless_line(project: Path, flowbed: Call) -> None:
    (project / "docs").mkdir()
    (project / "docs" / NAME).write_text("A text.\n")
    flowbed("init")
    flowbed("add", "docs", "files", "docs")
    called = flowbed("run")
    assert is_harmless(called.out)
    assert any(line.strip().startswith("a\\x1b[31m\\nflowbed:") for line in called.out.splitlines())


def test_search_foreign_text_on_a_terminal_is_shown_with_its_brackets(evil: Path) -> None:
    shown = on_terminal("search", "red", folder=evil)
    text = CONTROL.sub("", shown.raw).replace("\r\n", "\n")
    assert is_harmless(text)
    assert "\x1b" not in shown.raw
    assert "\\x1b]0;owned\\x07\\x1b[2J\\x1b[31mred" in text
    assert "[/b] [bold]x[/]" in text
    assert "\\u202e" in text


def test_search_with_json_gives_the_exact_text_and_controls_nothing(evil: Path, flowbed: Call) -> None:
    called = flowbed("search", "red", "--json")
    (hit,) = called.json["hits"]
    assert hit["document"] == EVIL
    assert hit["metadata"]["tag"] == NAME
    assert not any(each in called.out for each in "\x1b\x07\x9b\u202e")


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
)
def test_command_output_that_is_not_utf_8_ends_without_a_traceback(
    evil: Path, variables: dict[str, str]
) -> None:
    shown = process(evil, "search", "red", variables=variables)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"\\U0001f996" in shown.stdout
    exact = process(evil, "search", "red", "--json", variables=variables)
    assert json.loads(exact.stdout.decode("ascii"))["hits"][0]["document"] == EVIL
    for arguments in (["search", "--help"], ["status", "--nö"]):
        assert b"Traceback" not in process(evil, *arguments, variables=variables).stderr


@pytest.mark.parametrize("arguments", [["search", "red"], ["search", "red", "--json"], ["--help"]])
def test_command_reader_that_has_left_ends_quietly(evil: Path, arguments: list[str]) -> None:
    """As in `flowbed search ... | head -0`."""
    ours, its = os.pipe()
    os.close(ours)
    try:
        ended = process(evil, *arguments, stdout=its)
    finally:
        os.close(its)
    assert ended.stderr == b""
    assert ended.returncode in (0, 1)


def test_run_reader_that_has_left_is_finished_all_the_same(project: Path, flowbed: Call) -> None:
    (project / "docs").mkdir()
    (project / "docs" / "a.md").write_text("A text.\n")
    flowbed("init")
    flowbed("add", "docs", "files", "docs")
    ours, its = os.pipe()
    os.close(ours)
    try:
        ended = process(project, "run", "--json", stdout=its)
    finally:
        os.close(its)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert flowbed("status", "--json").json["collections"]["docs"]["rows"] == 1


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_command_full_disk_behind_its_output_is_an_error_in_words(evil: Path) -> None:
    with FULL.open("wb") as full:
        ended = process(evil, "search", "red", stdout=full.fileno())
    assert ended.returncode == 1
    assert ended.stderr == b"flowbed: standard output cannot be written: No space left on device\n"


def test_command_closed_output_ends_without_a_traceback(evil: Path) -> None:
    command = f"exec {sys.executable} -m flowbed search red >&- 2>&-"
    ended = subprocess.run(["/bin/sh", "-c", command], cwd=evil, check=False)
    assert ended.returncode == 0


def test_log_line_foreign_text_makes_no_other_line() -> None:
    record = logging.LogRecord(
        "flowbed", logging.WARNING, "", 1, "%s", ("bad\x1b[2J\nflowbed: forged",), None
    )
    assert Escaped("%(message)s").format(record) == "bad\\x1b[2J\\nflowbed: forged"
