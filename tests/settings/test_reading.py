"""How `flowbed.toml` is read: checked once, and read without a check while it says the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.settings import FILE, Settings, add_source, read_settings
from flowbed.settings.project import PASSED

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
model = "onnx:model"
keep_days = 7
deadline_hours = 1.5
store_options = { region = "eu" }
model_options = { threads = 2, trusted = true }
[providers.mine]
vendor = "openai"
items = 10
[prices]
small = 0.02
[sources.notes]
kind = "files"
location = "notes"
collection = "mine"
options = { include = ["*.md"], capacity = 100 }
[serve]
models = ["onnx:model"]
[serve.tiers.free]
requests_per_minute = 60
[serve.tiers.paid]
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("FLOWBED_"):
            monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as opening a project leaves it."""
    (tmp_path / ".flowbed").mkdir()
    return tmp_path


def written(folder: Path, text: str) -> Path:
    """Write the settings."""
    (folder / FILE).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "",
        'model = "seeded:8"',
        WHOLE,
        pytest.param('keep_versions = "5"', id="number as text"),
        pytest.param("keep_versions = 5.0", id="whole number with a point"),
        pytest.param("keep_versions = true", id="switch for a number"),
        pytest.param('[serve]\ncrossing = "yes"', id="switch as text"),
        pytest.param("[serve]\ncrossing = 1", id="number for a switch"),
    ],
)
def test_every_reading_says_the_same(project: Path, text: str) -> None:
    """Whether a file is checked or has passed before, it means the same."""
    first = read_settings(written(project, text))
    again = read_settings(project)
    assert again == first
    assert type(again.keep_versions) is int
    assert type(again.serve.crossing) is bool
    (project / PASSED).unlink(missing_ok=True)
    assert read_settings(project) == first


def test_numbers_and_switches_of_options_are_text(project: Path) -> None:
    """Options are text to whoever takes them, however the file writes them, at every reading."""
    for _ in range(2):
        said = read_settings(written(project, WHOLE))
        assert said.model_options == {"threads": "2", "trusted": "true"}
        assert said.providers == {"mine": {"vendor": "openai", "items": "10"}}
    assert "items" not in repr(said)  # a provider's options may be keys


LOADED = """
import sys
from pathlib import Path
from flowbed.settings import read_settings
print(read_settings(Path(sys.argv[1])).model, "pydantic" in sys.modules)
"""


def loaded(folder: Path, **variables: str) -> list[str]:
    """Read the settings in a new process; tell the model, and whether pydantic was needed."""
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, str(folder)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def test_a_file_that_passed_is_read_without_pydantic(project: Path) -> None:
    """A project whose settings have not changed since they were checked waits for no checker; any change brings it."""
    written(project, WHOLE)
    assert loaded(project) == ["onnx:model", "True"]
    assert loaded(project) == ["onnx:model", "False"]
    assert loaded(project, FLOWBED_MODEL="seeded:8") == ["seeded:8", "True"]
    assert loaded(project) == ["onnx:model", "False"]
    written(project, WHOLE.replace("onnx:model", "seeded:9"))
    assert loaded(project) == ["seeded:9", "True"]
    assert loaded(project) == ["seeded:9", "False"]


def test_a_project_without_a_file_passes_too(project: Path) -> None:
    """Defaults need no check twice."""
    assert [loaded(project)[1] for _ in range(2)] == ["True", "False"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("modell = 'x'", "modell: no such setting"),
        ("[serve]\nnonsense = 1", r"serve\.nonsense: no such setting"),
        ("[serve.tiers.free]\nnonsense = 1", r"serve\.tiers\.free\.nonsense: no such setting"),
        ("[sources.x]\nkind = 'files'", r"sources\.x\.location: Field required"),
        (
            "[sources.x]\nkind = 'files'\nlocation = '.'\ncollection = 'Bad Name'",
            "collection name 'Bad Name'",
        ),
        ("[sources.'Bad Name']\nkind = 'files'\nlocation = '.'", "source name 'Bad Name'"),
        ("concurrency = 0", "concurrency: Input should be greater than or equal to 1"),
        ("lane = 'fast'", "lane: Input should be"),
        ("serve = 3", "serve: Input should be a valid dictionary"),
    ],
)
def test_what_passed_lets_nothing_else_through(project: Path, text: str, fault: str) -> None:
    """A file that says something wrong is refused where another stood that passed, each time it is read."""
    read_settings(written(project, WHOLE))
    for _ in range(2):
        with pytest.raises(Misconfigured, match=fault):
            read_settings(written(project, text))


@pytest.mark.parametrize("mark", ["", "0" * 64, "\N{SNOWMAN}"])
def test_half_a_mark_is_none(project: Path, mark: str) -> None:
    """What a process that was killed left of the mark, or anything else that lies there, passes nothing."""
    written(project, "concurrency = 0")
    (project / PASSED).write_text(mark, "utf-8")
    with pytest.raises(Misconfigured, match="concurrency"):
        read_settings(project)


def test_what_the_environment_says_marks_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is not taken for sound because a variable covered its fault."""
    written(project, "concurrency = 0")
    monkeypatch.setenv("FLOWBED_CONCURRENCY", "5")
    assert read_settings(project).concurrency == 5
    monkeypatch.delenv("FLOWBED_CONCURRENCY")
    with pytest.raises(Misconfigured, match="concurrency"):
        read_settings(project)


def test_reading_makes_nothing_where_no_project_was_opened(tmp_path: Path) -> None:
    """A folder that is only looked at stays as it is."""
    assert read_settings(written(tmp_path, WHOLE)).model == "onnx:model"
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_a_source_that_cannot_be_read_again_is_not_written(project: Path) -> None:
    """An option that the file cannot hold is refused by its place, and the file stays as it was."""
    written(project, WHOLE)
    with pytest.raises(Misconfigured, match=r"sources\.more\.options\.deep"):
        add_source(
            project, "more", kind="files", location=".", collection=None, options={"deep": {"in": {"it": 1}}}
        )
    assert (project / FILE).read_text("utf-8") == WHOLE
    add_source(project, "more", kind="files", location=".", collection=None, options={"include": ["*.txt"]})
    assert read_settings(project).sources["more"].options == {"include": ["*.txt"]}


def test_settings_are_made_by_hand_too() -> None:
    """The records have the file's defaults."""
    assert Settings(store="s3://bucket") == Settings(store="s3://bucket", keep_days=7)
