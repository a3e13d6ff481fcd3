"""The package of functions: its settings are checked when it is made, and every user may read it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from flowbed.aws.deployment.assets import zipped
from flowbed.aws.deployment.package import build_local
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

CALLED = """
import sys
from flowbed.settings import function_folder, read_settings
print(read_settings(function_folder()).model, "pydantic" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings from variables are validated by every process."""
    for name in [each for each in os.environ if each.startswith("FLOWBED_")]:
        monkeypatch.delenv(name)


def called(package: Path, folder: Path) -> list[str]:
    """Read the settings as a function does that has just started; return the model and whether they were validated."""
    named = {"AWS_LAMBDA_FUNCTION_NAME": "f", "LAMBDA_TASK_ROOT": str(package), "TMPDIR": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", CALLED],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def test_package_settings_are_not_validated_again_by_a_function(tmp_path: Path) -> None:
    """Building the models of validation would take a fifth of a second of every start."""
    project, package, folder = (tmp_path / name for name in ("project", "package", "tmp"))
    project.mkdir()
    folder.mkdir()
    (project / "flowbed.toml").write_text('model = "seeded:8"\n')
    build_local(package, project)
    assert called(package, folder) == ["seeded:8", "False"]


def test_package_without_a_fingerprint_is_validated_once_in_a_sandbox(tmp_path: Path) -> None:
    package, folder = tmp_path / "package", tmp_path / "tmp"
    package.mkdir()
    folder.mkdir()
    (package / "flowbed.toml").write_text('model = "seeded:8"\n')
    assert [called(package, folder)[1] for _ in range(2)] == ["True", "False"]


def test_package_files_are_readable_by_the_user_of_a_function(tmp_path: Path) -> None:
    """A file of settings may be its owner's alone on the machine that deploys."""
    project, package = tmp_path / "project", tmp_path / "package"
    project.mkdir()
    (project / "flowbed.toml").write_text("")
    (project / "flowbed.toml").chmod(0o600)
    build_local(package, project)
    with zipfile.ZipFile(io.BytesIO(zipped(package))) as archive:
        modes = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
    assert modes == {"flowbed.toml": 0o644, ".flowbed/settings.passed": 0o644, "bootstrap": 0o755}


def test_package_of_a_project_with_a_wrong_setting_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "flowbed.toml").write_text("modell = 'x'\n")
    with pytest.raises(Misconfigured, match="did you mean model"):
        build_local(tmp_path / "package", tmp_path)
    with pytest.raises(Misconfigured, match="functions get their settings from it; flowbed init"):
        build_local(tmp_path / "package", tmp_path / "nowhere")
