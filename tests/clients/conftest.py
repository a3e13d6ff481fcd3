"""Third-party clients, and a server in its own process, as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import create_key

from flowbed.testing.simulators import OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NoReturn

# `make clients` installs them here: they have dependencies that the package must not have.
CLIENTS = Path(__file__).parent.parent.parent / ".clients"
LOCAL = "onnx:sentence-transformers/all-MiniLM-L6-v2"
SEEDED = "seeded:64"
SMALL = "text-embedding-3-small"
STARTING = 120  # seconds: the graph of the local model may have to be built first


@dataclass(frozen=True)
class Served:
    """A running server, its model, and its keys if it has some."""

    url: str
    model: str
    key: str = ""
    limited_key: str = ""


def write_project(folder: Path, settings: str) -> Path:
    """Create a project with these settings."""
    folder.mkdir()
    (folder / "flowbed.toml").write_text(settings)
    return folder


@contextmanager
def serving(folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Run `flowbed serve` on a project; yields its address and a way to run other commands."""
    # Variables for providers on this machine must not reach the server.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOWBED_", "OPENAI_", "EMBEDDINGS_"))
    }
    command = [sys.executable, "-m", "flowbed"]

    def call(*arguments: str) -> Any:
        done = subprocess.run(
            [*command, *arguments, "--json", "--config", str(folder)],
            env={**kept, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=STARTING,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "serve", "--port", "0", "--json", "--config", str(folder)],
            env={**kept, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "serve.log").read_text()
            yield f"{json.loads(line)['url']}/v1", call
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yield a server without keys, whose vectors are computed from the text."""
    folder = tmp_path_factory.mktemp("seeded") / "project"
    aliases = f'aliases = {{ "{SMALL}" = "{SEEDED}" }}'
    write_project(folder, f'model = "{SEEDED}"\n[serve]\n{aliases}\n')
    with serving(folder) as (url, _):
        yield Served(url=url, model=SEEDED)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yield a server with the local model and keys."""
    folder = tmp_path_factory.mktemp("local") / "project"
    settings = f'model = "{LOCAL}"\n[serve]\ntiers.slow = {{ requests_per_minute = 60 }}\n'
    write_project(folder, settings)
    key, limited = create_key(folder), create_key(folder, "hasty", tier="slow")
    with serving(folder) as (url, _):
        yield Served(url=url, model=LOCAL, key=key, limited_key=limited)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Yield a server in front of the simulator of OpenAI's API."""
    folder = tmp_path_factory.mktemp("upstream") / "project"
    with running_thread(Simulator(OpenAI())) as simulated:
        provider = f'[providers.openai]\nbase_url = "{simulated}/v1"\napi_key = "simulated"\n'
        write_project(folder, f'model = "openai:{SMALL}"\n[serve]\ndimensions = "reduce"\n{provider}')
        with serving(folder) as (url, _):
            yield Served(url=url, model=SMALL)


@pytest.fixture(params=["seeded", "local", "upstream"])
def served(request: pytest.FixtureRequest) -> Served:
    """Yield each of the servers in turn."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def installed(lacking: Callable[[str], NoReturn]) -> Callable[[str], Path]:
    """Return what `make clients` has installed."""

    def find(path: str) -> Path:
        if not (CLIENTS / path).exists():
            lacking(f".clients/{path} is not there: make clients")
        return CLIENTS / path

    return find


@pytest.fixture(scope="session")
def in_node(lacking: Callable[[str], NoReturn], installed: Callable[[str], Path]) -> Callable[..., Any]:
    """Run a script of checks in Node against a server, and return its JSON."""
    node = shutil.which("node")
    if node is None:
        lacking("no Node: make services")
    modules = installed("node/node_modules/openai").parent.parent
    scripts = Path(__file__).parent / "node"

    def run(script: str, served: Served | dict[str, Any], **more: Any) -> Any:
        told = {**(served if isinstance(served, dict) else asdict(served)), **more}
        done = subprocess.run(
            [node, str(scripts / script), str(modules), json.dumps(told)],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return json.loads(done.stdout)

    return run
