"""Clients that others have written, and a server as a user starts it, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.testing.simulators import OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NoReturn

# `make clients` installs them here: each has dependencies of its own, which are not to be those of the package.
CLIENTS = Path(__file__).parent.parent.parent / ".clients"
LOCAL = "onnx:sentence-transformers/all-MiniLM-L6-v2"
SEEDED = "seeded:64"
SMALL = "text-embedding-3-small"
STARTING = 120  # seconds: the graph of the local model may have to be made first


@dataclass(frozen=True)
class Served:
    """A server that runs, a model of it, and its keys where it has some."""

    url: str
    model: str
    key: str = ""
    limited_key: str = ""


@contextmanager
def serving(folder: Path, settings: str, *, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Run `flowbed serve` over a project with these settings; gives its address and how to run other commands."""
    folder.mkdir()
    (folder / "flowbed.toml").write_text(settings)
    # Whatever this machine has set for providers is none of the server's business here.
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


def _keyed(call: Any) -> tuple[str, str]:
    """Make a key, and one that may ask 60 times a minute."""
    return call("keys", "create", "clients")["secret"], call("keys", "create", "hasty", "--tier", "slow")[
        "secret"
    ]


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give a server that asks for no key, whose vectors follow from the text."""
    folder = tmp_path_factory.mktemp("seeded") / "project"
    aliases = f'aliases = {{ "{SMALL}" = "{SEEDED}" }}'
    with serving(folder, f'model = "{SEEDED}"\n[serve]\n{aliases}\n') as (url, _):
        yield Served(url=url, model=SEEDED)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give a server with the local model and keys."""
    folder = tmp_path_factory.mktemp("local") / "project"
    settings = f'model = "{LOCAL}"\n[serve]\ntiers.slow = {{ requests_per_minute = 60 }}\n'
    with serving(folder, settings) as (url, call):
        key, limited = _keyed(call)
        yield Served(url=url, model=LOCAL, key=key, limited_key=limited)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give a server in front of the simulator of OpenAI's API."""
    folder = tmp_path_factory.mktemp("upstream") / "project"
    with running_thread(Simulator(OpenAI())) as simulated:
        provider = f'[providers.openai]\nbase_url = "{simulated}/v1"\napi_key = "simulated"\n'
        with serving(folder, f'model = "openai:{SMALL}"\n[serve]\ndimensions = "reduce"\n{provider}') as (
            url,
            _,
        ):
            yield Served(url=url, model=SMALL)


@pytest.fixture(params=["seeded", "local", "upstream"])
def served(request: pytest.FixtureRequest) -> Served:
    """Give each of the servers in turn."""
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def installed(lacking: Callable[[str], NoReturn]) -> Callable[[str], Path]:
    """Give what `make clients` has installed."""

    def find(path: str) -> Path:
        if not (CLIENTS / path).exists():
            lacking(f".clients/{path} is not there: make clients")
        return CLIENTS / path

    return find


@pytest.fixture(scope="session")
def in_node(lacking: Callable[[str], NoReturn], installed: Callable[[str], Path]) -> Callable[..., Any]:
    """Run a script of checks in Node against a server, told what else it needs; give what it says as JSON."""
    node = shutil.which("node")
    if node is None:
        lacking("no Node: make services")
    modules = installed("node/node_modules/openai").parent.parent
    scripts = Path(__file__).parent / "node"

    def run(script: str, served: Served, **more: Any) -> Any:
        told = {"url": served.url, "model": served.model, "key": served.key, **more}
        done = subprocess.run(
            [node, str(scripts / script), str(modules), json.dumps(told)],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return json.loads(done.stdout)

    return run
