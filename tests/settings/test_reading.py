"""Reading `flowbed.toml`: validated once, then without validation while nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowbed.errors import Misconfigured
from flowbed.records import names
from flowbed.settings import FILE, Settings, SourceSettings, add_source, checking, read_settings
from flowbed.settings import project as rules
from flowbed.settings.project import PACKAGE, PASSED, RULES, fingerprint

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
    """Return a folder of an opened project."""
    (tmp_path / ".flowbed").mkdir()
    return tmp_path


def written(folder: Path, text: str) -> Path:
    """Write the settings file."""
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
def test_read_settings_validated_or_remembered_gives_the_same(project: Path, text: str) -> None:
    first = read_settings(written(project, text))
    again = read_settings(project)
    assert again == first
    assert type(again.keep_versions) is int
    assert type(again.serve.crossing) is bool
    (project / PASSED).unlink(missing_ok=True)
    assert read_settings(project) == first


def test_options_numbers_and_switches_become_text(project: Path) -> None:
    for _ in range(2):
        settings = read_settings(written(project, WHOLE))
        assert settings.model_options == {"threads": "2", "trusted": "true"}
        assert settings.providers == {"mine": {"vendor": "openai", "items": "10"}}
    assert "items" not in repr(settings)  # a provider's options may be keys


LOADED = """
import sys
from pathlib import Path
from flowbed.settings import read_settings
print(read_settings(Path(sys.argv[1])).model, "pydantic" in sys.modules)
"""


def loaded(folder: Path, **variables: str) -> list[str]:
    """Read the settings in a new process; return the model and whether pydantic was loaded."""
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, str(folder)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def test_read_settings_unchanged_file_loads_no_pydantic(project: Path) -> None:
    """Only a change of the file or a FLOWBED_ variable loads pydantic."""
    written(project, WHOLE)
    assert loaded(project) == ["onnx:model", "True"]
    assert loaded(project) == ["onnx:model", "False"]
    assert loaded(project, FLOWBED_MODEL="seeded:8") == ["seeded:8", "True"]
    assert loaded(project) == ["onnx:model", "False"]
    written(project, WHOLE.replace("onnx:model", "seeded:9"))
    assert loaded(project) == ["seeded:9", "True"]
    assert loaded(project) == ["seeded:9", "False"]


def test_read_settings_no_file_is_validated_once(project: Path) -> None:
    assert [loaded(project)[1] for _ in range(2)] == ["True", "False"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("modell = 'x'", r"modell: no such setting \(did you mean model\?\)"),
        (
            "[sources.a]\nkind = 'files'\nlocation = '.'\ncolection = 'a'",
            r"no such setting \(did you mean collection\?\)",
        ),
        ("[serve]\nbaches = true", "no such setting"),
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
def test_read_settings_invalid_file_after_a_valid_one_is_refused(
    project: Path, text: str, fault: str
) -> None:
    """An invalid file is refused at every reading, even if the file before it was valid."""
    read_settings(written(project, WHOLE))
    for _ in range(2):
        with pytest.raises(Misconfigured, match=fault):
            read_settings(written(project, text))


@pytest.mark.parametrize("content", ["", "0" * 64, "\N{SNOWMAN}"])
def test_read_settings_broken_fingerprint_file_validates_again(project: Path, content: str) -> None:
    """A partly written or foreign fingerprint makes no file valid."""
    written(project, "concurrency = 0")
    (project / PASSED).write_text(content, "utf-8")
    with pytest.raises(Misconfigured, match="concurrency"):
        read_settings(project)


def test_read_settings_valid_only_with_environment_is_not_remembered(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is not remembered as valid because a variable hid its fault."""
    written(project, "concurrency = 0")
    monkeypatch.setenv("FLOWBED_CONCURRENCY", "5")
    assert read_settings(project).concurrency == 5
    monkeypatch.delenv("FLOWBED_CONCURRENCY")
    with pytest.raises(Misconfigured, match="concurrency"):
        read_settings(project)


def test_fingerprint_allowed_value_changes_validates_again(tmp_path: Path) -> None:
    """After an upgrade that changes what is valid, a remembered file is validated again."""
    for name in RULES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((PACKAGE / name).read_bytes())
    assert fingerprint(b"", tmp_path) == fingerprint(b"")
    for name in RULES:
        before = fingerprint(b"", tmp_path)
        (tmp_path / name).write_text((PACKAGE / name).read_text("utf-8").replace('"', '"other-', 1), "utf-8")
        assert fingerprint(b"", tmp_path) != before


def test_fingerprint_covers_every_module_that_defines_allowed_values() -> None:
    """Annotations of settings resolve only to names of modules that are part of the fingerprint."""
    # What a source or a collection may be called is said in a module of its own.
    modules = {checking, names, rules, *checking.NAMESPACES}
    assert {PACKAGE / name for name in RULES} == {Path(str(module.__file__)) for module in modules}


def test_read_settings_folder_without_project_creates_no_file(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, WHOLE)).model == "onnx:model"
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def source(*, location: str = ".", options: Any = None) -> SourceSettings:
    return SourceSettings(kind="files", location=location, options=options or {})


def test_add_source_unreadable_option_leaves_the_file_unchanged(project: Path) -> None:
    """An option that the file cannot hold is refused by its path."""
    written(project, WHOLE)
    with pytest.raises(Misconfigured, match=r"sources\.more\.options\.deep"):
        add_source(project, "more", source(options={"deep": {"in": {"it": 1}}}))
    assert (project / FILE).read_text("utf-8") == WHOLE
    add_source(project, "more", source(options={"include": ["*.txt"]}))
    assert read_settings(project).sources["more"].options == {"include": ["*.txt"]}


def test_settings_created_in_code_have_the_defaults_of_the_file() -> None:
    assert Settings(store="s3://bucket") == Settings(store="s3://bucket", keep_days=7)


def test_byte_order_mark_in_the_file_is_ignored(project: Path) -> None:
    """A byte order mark, as some editors write it, is no part of the settings; adding a source keeps the rest."""
    (project / "flowbed.toml").write_text('\ufeffmodel = "seeded:8"  # small\n', "utf-8")
    assert read_settings(project).model == "seeded:8"
    add_source(project, "notes", source(location="docs"))
    assert read_settings(project).sources["notes"].location == "docs"
    assert "# small" in (project / "flowbed.toml").read_text("utf-8")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("model = 5".encode("utf-16"), id="utf-16"),
        pytest.param(b"concurrency = 1" + b"0" * 5_000, id="5,000 digits"),
        pytest.param(b"model = " + b"[" * 5_000 + b"]" * 5_000, id="nested"),
        pytest.param(b"model = \x00", id="nul"),
    ],
)
def test_file_that_no_parser_takes_is_misconfigured(project: Path, content: bytes) -> None:
    """A file that is no TOML is refused by name, whatever is in it."""
    (project / "flowbed.toml").write_bytes(content)
    with pytest.raises(Misconfigured, match=r"flowbed\.toml is not valid TOML"):
        read_settings(project)
