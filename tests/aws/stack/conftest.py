"""The tools that write and check the template, and the template that they have written."""

from __future__ import annotations

import fcntl
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
def both(in_cdk: Callable[..., subprocess.CompletedProcess[str]]) -> tuple[Path, Path]:
    """Return the folders of two production templates and their reports, of which one has every other choice.

    Writing them takes seconds, so the workers of pytest-xdist share them, below the cache folder that they inherit.
    """
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "templates"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _write_templates(folder, in_cdk)
            (folder / "done").touch()
    return folder / "usual", folder / "other"


def _write_templates(folder: Path, in_cdk: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    package = folder / "package"
    package.mkdir(exist_ok=True)
    (package / "flowbed.toml").write_text("")
    options = {"package": str(package), "image": IMAGE, "alarm_email": "ann@example.com"}
    others = {"fifo": True, "architecture": "x86_64", "tables": {"receipts": True, "eu-west-1/old": False}}
    written = []
    for name, choices in (("usual", {}), ("other", others)):
        written += [str(folder / name), json.dumps({**options, **choices})]
    done = in_cdk("python", "-m", "flowbed.aws.stack", *written)  # CDK takes seconds to start
    assert done.returncode == 0, done.stderr[-3_000:]


@pytest.fixture(scope="session")
def written(both: tuple[Path, Path]) -> Path:
    """Return the folder of the template of a usual deployment."""
    return both[0]


@pytest.fixture(scope="session")
def resources(written: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the resources of the usual template by their kind."""
    return resources_of(written)


@pytest.fixture(scope="session")
def others(both: tuple[Path, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the resources of the template with every other choice by their kind."""
    return resources_of(both[1])


def resources_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the resources of a template by their kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads((folder / "flowbed.template.json").read_text())["Resources"].values():
        found.setdefault(each["Type"], []).append(each)
    return found
