"""The tools that write and check the template, and the template that they have written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parent.parent.parent.parent
BIN = ROOT / ".tools" / "cdk" / "bin"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/flowbed:0.1.0"


@pytest.fixture(scope="session")
def in_cdk(lacking: Callable[[str], NoReturn]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of the environment that has CDK, and return how it ended."""
    if not BIN.exists():
        lacking(".tools/cdk is not there: make tools")
    if shutil.which("node") is None:
        lacking("no Node: make services")

    def run(*command: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / command[0], *command[1:]],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(variables or {})},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def written(
    in_cdk: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a production template and its report."""
    folder, package = tmp_path_factory.mktemp("stack"), tmp_path_factory.mktemp("package")
    (package / "flowbed.toml").write_text("")
    options = {"package": str(package), "image": IMAGE, "alarm_email": "ann@example.com"}
    done = in_cdk("python", "-m", "flowbed.aws.stack", str(folder), json.dumps(options))
    assert done.returncode == 0, done.stderr[-3_000:]
    return folder


@pytest.fixture(scope="session")
def resources(written: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the resources of the production template by their kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads((written / "flowbed.template.json").read_text())["Resources"].values():
        found.setdefault(each["Type"], []).append(each)
    return found
