"""The zip of functions that load neither the index nor a model: Flowbed, its light dependencies, the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING

import flowbed
from flowbed.errors import Misconfigured, Rejected
from flowbed.settings import FILE, PASSED, read_settings

if TYPE_CHECKING:
    from flowbed.aws.stack.options import Architecture

# What the light functions import, beside Python itself. Lambda's own boto3 is older than the AWS that we call.
REQUIREMENTS = (
    "aiohttp",
    "boto3",
    "cachetools",
    "markdown-it-py",
    "obstore",
    "orjson",
    "pathspec",
    "platformdirs",
    "psutil",
    "pybase64",
    "pydantic",
    "pydantic-settings",
    "rs-bpe",
    "semantic-text-splitter",
    "stamina",
    "structlog",
    "tomlkit",
    "zstandard",
)
# Of the wheels for each kind of machine. Lambda's Amazon Linux 2023 has glibc 2.34, so it runs all up to that.
WHEELS = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC = range(17, 35)
PYTHON = "3.13"
# Bytes that Lambda takes, unpacked.
MOST = 250 * 2**20
# As AWS starts a runtime of one's own; with it an emulator reports errors under their own names, as AWS does.
BOOTSTRAP = """#!/bin/sh
export PYTHONPATH={paths}
cd "$LAMBDA_TASK_ROOT" && exec {python} -m awslambdaric "$_HANDLER"
"""
INSTALLING = 1_800  # s


def build(folder: Path, project: Path, architecture: Architecture = "arm64") -> None:
    """Write the package for AWS's Python on a kind of machine into `folder`, with the settings of a project.

    Raises:
        Misconfigured: the project has no valid `flowbed.toml`, or pip cannot install for that platform.
        Rejected: the package is larger than Lambda takes.
    """
    _settings(folder, project)
    done = subprocess.run(  # noqa: S603 - pip, of this Python
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder)]
        + [f"--platform={each}" for each in _platforms(architecture)]
        + ["--python-version", PYTHON, "--only-binary", ":all:", "--no-compile", *requirements()],
        capture_output=True,
        text=True,
        timeout=INSTALLING,
        check=False,
    )
    if done.returncode:
        raise Misconfigured(f"the package of the functions could not be made: {done.stderr.strip()[-1_000:]}")
    source = Path(flowbed.__file__).parent
    shutil.copytree(source, folder / "flowbed", ignore=shutil.ignore_patterns("__pycache__", "testing"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST:
        raise Rejected(f"the package of the functions has {size:,} bytes, and Lambda takes {MOST:,}")


def build_local(folder: Path, project: Path) -> None:
    """Write a package for an emulator on this machine: the settings, and a start with this Python.

    Raises:
        Misconfigured: the project has no valid `flowbed.toml`.
    """
    _settings(folder, project)
    bootstrap = folder / "bootstrap"
    paths = ":".join(path for path in sys.path if path)
    bootstrap.write_text(BOOTSTRAP.format(paths=paths, python=sys.executable))
    bootstrap.chmod(0o755)


def _platforms(architecture: Architecture) -> list[str]:
    wheels = WHEELS[architecture]
    return [f"manylinux2014_{wheels}", *(f"manylinux_2_{minor}_{wheels}" for minor in GLIBC)]


def requirements() -> list[str]:
    """Return what to install, within the versions that Flowbed allows."""
    said = (re.split(r"\s*;", each, maxsplit=1)[0] for each in requires("flowbed") or ())
    bounds = {re.split(r"[^\w.-]", each, maxsplit=1)[0].lower(): each for each in said}
    return [bounds[name] for name in REQUIREMENTS]


def _settings(folder: Path, project: Path) -> None:
    if not (project / FILE).is_file():
        raise Misconfigured(
            f"there is no {FILE} in {project}: functions get their settings from it; flowbed init"
        )
    passed = folder / PASSED
    passed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(project / FILE, folder / FILE)
    # Wrong ones are found here, not by the first call; no function validates again what has passed.
    read_settings(folder)
    if passed.exists():
        passed.chmod(0o644)  # another user runs the function
