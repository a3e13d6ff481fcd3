"""Where graphs of local models are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.embedding.conftest import write_model

from flowbed.errors import Misconfigured
from flowbed.settings import Settings, model_cache


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's cache folder, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def chosen(project: Path, setting: str = "") -> Path:
    return model_cache(Settings(model_cache=setting), folder=project, hidden=project / ".flowbed")


def test_model_cache_is_the_users_and_is_not_created(caches: Path, tmp_path: Path) -> None:
    assert chosen(tmp_path) == caches / "flowbed" / "models"
    assert not caches.exists()


@pytest.mark.parametrize(("setting", "place"), [("graphs", "project/graphs"), ("/srv/graphs", "/srv/graphs")])
def test_model_cache_setting_names_the_folder(caches: Path, tmp_path: Path, setting: str, place: str) -> None:
    assert chosen(tmp_path / "project", setting) == tmp_path / place


def test_model_cache_setting_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert chosen(tmp_path, "~/graphs") == tmp_path / "home" / "graphs"
    with pytest.raises(Misconfigured, match="write the whole path"):
        chosen(tmp_path, "~nobody-of-that-name/graphs")


def test_model_cache_without_a_home_is_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers run as users whose home does not exist."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/no/such/home")
    assert chosen(tmp_path) == tmp_path / ".flowbed" / "models"


def test_model_cache_of_a_home_that_is_a_file_is_in_the_project(caches: Path, tmp_path: Path) -> None:
    caches.write_text("no folder")
    assert chosen(tmp_path) == tmp_path / ".flowbed" / "models"


def test_model_cache_that_cannot_be_written_is_in_the_project(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the answer of the system is taken instead."""
    caches.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != caches)
    assert chosen(tmp_path) == tmp_path / ".flowbed" / "models"


def test_model_cache_project_with_graphs_keeps_them(caches: Path, tmp_path: Path) -> None:
    own = tmp_path / ".flowbed" / "models"
    (own / "digests").mkdir(parents=True)
    assert chosen(tmp_path) == caches / "flowbed" / "models"
    (own / "0123456789abcdef-mean-1.onnx").touch()
    assert chosen(tmp_path) == own


def test_two_projects_that_start_at_once_share_one_graph(caches: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny")
    running = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "notes").mkdir(parents=True)
        (folder / "notes" / "a.txt").write_text(f"abc {name}\n")
        (folder / "flowbed.toml").write_text(
            f'model = "onnx:{model}"\n[sources.notes]\nkind = "files"\nlocation = "notes"\n'
        )
        command = [sys.executable, "-m", "flowbed", "run", "--config", str(folder)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in running:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert len(list((caches / "flowbed" / "models").glob("*.onnx"))) == 1
    assert not list(tmp_path.glob("*/.flowbed/models"))
