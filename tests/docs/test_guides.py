"""The guides of docs/guides: each command runs, in the order of the page, against simulators of what is elsewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.cli.app import run
from flowbed.embedding.vendors import VENDORS as PROVIDERS
from flowbed.sources import VENDORS as SOURCES
from flowbed.testing.simulators import OpenAI, Simulator, running_thread
from flowbed.testing.simulators.providers.openai import Model
from flowbed.testing.simulators.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PAGES = sorted(path.stem for path in GUIDES.glob("*.md"))
# The locations of pages about APIs, and where the simulator of each answers.
LOCATIONS = {
    "slack": ("slack://", "/api"),
    "discord": ("discord://101550261366089708", "/channels/900000000000000001"),
    "gitlab": ("https://gitlab.example.com/group/project", "/web/app"),
    "backlog": ("https://acme.backlog.com", ""),
}
# Pages whose models run in this process.
HERE = {"local", "multilingual"}
DEPLOYMENTS = {"laptop", "one-server", "many-machines"}  # and docs/aws.md


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / f"{page}.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def elsewhere(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """Simulate what a page is about; yields an address that it names, and the one to use in its place."""
    page = request.param
    for name in ("FLOWBED_MODEL", "FLOWBED_STORE", "FLOWBED_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        if page in LOCATIONS:
            simulator = import_module(f"flowbed.testing.simulators.sources.{page}").sample()
            named, path = LOCATIONS[page]
            url = stack.enter_context(running_thread(simulator, dated=False))
            yield page, f"{named} {url}{path}"
        elif page in VENDORS:
            url = stack.enter_context(running_thread(Simulator(VENDORS[page].open())))
            address = VENDORS[page].options(url)["base_url"]
            monkeypatch.setenv(f"FLOWBED_PROVIDERS__{VENDORS[page].provider.upper()}__BASE_URL", address)
            yield page, ""
        elif page == "compatible":
            api = OpenAI(models={"BAAI/bge-m3": Model(dimensions=1024)}, strict=False)
            url = stack.enter_context(running_thread(Simulator(api)))
            yield page, f"http://10.0.0.7:8080 {url}"
        else:
            if page == "many-machines":
                monkeypatch.setenv("FLOWBED_STORE", str(tmp_path / "store"))
                monkeypatch.setenv("FLOWBED_LEDGER", f"sqlite:///{tmp_path}/ledger.db")
            yield page, ""


@pytest.mark.parametrize("elsewhere", PAGES, indirect=True, ids=PAGES)
def test_guide_every_command_runs(
    elsewhere: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, moved = elsewhere
    named, _, here = moved.partition(" ")
    monkeypatch.chdir(tmp_path)
    settings = blocks(page, "toml")
    if settings:
        Path("flowbed.toml").write_text(settings[0].replace(named, here) if named else settings[0])
    if not settings or page in DEPLOYMENTS:
        monkeypatch.setenv("FLOWBED_MODEL", "seeded:64")
    if settings and page not in DEPLOYMENTS:
        Path("handbook.md").write_text("# Keys\n\nKeys are rotated every Monday.\n")
        assert run(["add", "handbook", "files", "handbook.md"]) == 0, capsys.readouterr()
    (commands,) = blocks(page, "sh")
    for command in whole_commands(commands):
        follow(command.replace(named, here) if named else command, monkeypatch, capsys)


def whole_commands(block: str) -> Iterator[str]:
    """Yield the commands of a block; one goes on where a quotation is open."""
    begun = ""
    for line in block.splitlines():
        begun = f"{begun}\n{line}" if begun else line
        try:
            shlex.split(begun)
        except ValueError:
            continue
        yield begun
        begun = ""
    assert not begun


def follow(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command as a shell would; those of Flowbed in this process."""
    if command.startswith("export "):
        name, _, value = command.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value.partition(" ")[0].replace("...", "simulated"))
    elif command == "flowbed init" and Path("flowbed.toml").exists():
        return
    elif command.startswith("flowbed "):
        capsys.readouterr()
        assert run(shlex.split(command.removeprefix("flowbed "))) == 0, (command, capsys.readouterr())
        said = capsys.readouterr().out
        assert "#" in said or not command.startswith("flowbed search ")  # the id of a hit
    else:
        subprocess.run(["bash", "-ec", command], check=True, timeout=60)


def test_guides_there_is_one_for_each_source_provider_and_deployment() -> None:
    """Torch's models are a line in the page about local ones."""
    providers: Any = {"onnx": "local", "sentence_transformers": "local"}
    wanted = {providers.get(name, name) for name in PROVIDERS} - {"seeded"}
    assert {*SOURCES, *wanted, *DEPLOYMENTS, "azure", "multilingual"} <= set(PAGES)
    local = (GUIDES / "local.md").read_text("utf-8")
    assert "sentence_transformers:" in local
