"""The image and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from flowbed.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """Return a copy of deploy/ in which secrets have been made."""
    copied = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copied, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run(["sh", copied / "secrets.sh"], check=True, timeout=60)
    return copied


def composed(deploy: Path, tool: Callable[..., Any]) -> dict[str, Any]:
    """Return the compose file as Compose itself understands it."""
    done = tool("docker-compose", "-f", str(deploy / "compose.yaml"), "config")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_dockerfiles_pass_their_linter(tool: Callable[..., Any]) -> None:
    done = tool("hadolint", str(DEPLOY / "Dockerfile"), str(DEPLOY / "lambda" / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile_copies_only_what_exists() -> None:
    lines = re.findall(
        r"^COPY (?!--from)(?:--\S+ )?(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )
    assert [path for line in lines for path in line.split() if not (ROOT / path).exists()] == []


def test_dockerfile_extras_are_extras_of_the_package() -> None:
    import tomllib

    extras = re.search(r"^ARG EXTRAS=(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras is not None
    assert set(extras[1].split(",")) <= set(package["optional-dependencies"])


def test_compose_file_is_accepted_and_every_command_is_one_of_flowbed(
    deploy: Path, tool: Callable[..., Any]
) -> None:
    services = composed(deploy, tool)["services"]
    ours = {name: service for name, service in services.items() if service["image"].startswith("flowbed:")}
    assert set(ours) == {"migrate", "server", "worker"}
    for service in ours.values():
        done = subprocess.run(
            [sys.executable, "-m", "flowbed", service["command"][0], "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert all(option in done.stdout for option in service["command"] if option.startswith("--"))


def test_compose_file_containers_of_flowbed_have_no_privileges(
    deploy: Path, tool: Callable[..., Any]
) -> None:
    for name, service in composed(deploy, tool)["services"].items():
        if service["image"].startswith("flowbed:"):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_file_misspelt_key_is_refused(deploy: Path, tool: Callable[..., Any]) -> None:
    """The check can fail: a wrong key is found."""
    text = (deploy / "compose.yaml").read_text()
    (deploy / "compose.yaml").write_text(text.replace("interval: 10s", "intervall: 10s"))
    assert tool("docker-compose", "-f", str(deploy / "compose.yaml"), "config", "-q").returncode != 0


def test_secrets_made_twice_stay_the_same(deploy: Path) -> None:
    before = {path.name: path.read_text() for path in (deploy / "secrets").iterdir()}
    subprocess.run(["sh", deploy / "secrets.sh"], check=True, timeout=60)
    assert {path.name: path.read_text() for path in (deploy / "secrets").iterdir()} == before
    assert before["LEDGER_PASSWORD"] in before["FLOWBED_LEDGER"]
    assert (deploy / "secrets").stat().st_mode & 0o077 == 0


def test_entrypoint_with_secret_files_sets_their_variables(tmp_path: Path) -> None:
    """Files with other names, such as a server's configuration, are left alone."""
    secrets, path = tmp_path / "secrets", tmp_path / "bin"
    secrets.mkdir()
    path.mkdir()
    (secrets / "OPENAI_API_KEY").write_text("a key with 'quotes' and $signs\n")
    (secrets / "store.json").write_text("{}")
    (path / "flowbed").write_text('#!/bin/sh\nprintf "%s|" "$OPENAI_API_KEY" "$@"\n')
    (path / "flowbed").chmod(0o755)
    done = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "serve", "a b"],
        env={"PATH": f"{path}:{os.environ['PATH']}", "SECRETS": str(secrets)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "a key with 'quotes' and $signs|serve|a b|"


def test_entrypoint_with_an_unreadable_secret_starts_nothing(tmp_path: Path) -> None:
    """Without the address of its ledger, it would start over an empty one."""
    (tmp_path / "bin").mkdir()
    for name, script in (("cat", "exit 1"), ("flowbed", "echo started")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "FLOWBED_LEDGER").write_text("postgresql://flowbed@ledger/flowbed")
    done = subprocess.run(
        ["sh", DEPLOY / "entrypoint.sh", "status"],
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SECRETS": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_secrets_made_by_a_user_with_private_files_can_be_read_by_containers(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    subprocess.run(["sh", "-c", "umask 077; sh secrets.sh"], cwd=tmp_path, check=True, timeout=60)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o644}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_make_graph_leaves_the_graph_of_a_model_where_it_is_looked_for(tmp_path: Path) -> None:
    command = tmp_path / "flowbed"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m flowbed "$@"\n')
    command.chmod(0o755)
    subprocess.run(
        ["sh", DEPLOY / "make_graph.sh", command, "onnx:sentence-transformers/all-MiniLM-L6-v2"],
        env={**os.environ, "FLOWBED_MODEL_CACHE": str(tmp_path / "models")},
        timeout=300,
        check=True,
        capture_output=True,
    )
    assert list((tmp_path / "models").glob("*.onnx"))


def test_project_of_the_compose_file_is_a_valid_project(deploy: Path) -> None:
    assert read_settings(deploy).model.startswith("onnx:")


def test_page_names_values_of_the_chart_and_services_of_the_compose_file() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    values = yaml.safe_load((DEPLOY / "helm" / "flowbed" / "values.yaml").read_text())
    table = page[page.index("| value | default |") :].partition("\n\n")[0]
    for path in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)`(?=[^|]*\|[^|]*\|[^|]*\|$)", table, re.MULTILINE):
        found: Any = values
        for name in path.split("."):
            found = found[name]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(re.findall(r"--scale (\w+)=", page)) | set(re.findall(r"run --rm (\w+)", page)) <= set(
        services
    )
