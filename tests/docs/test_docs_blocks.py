"""The blocks of pages about a running server, and about a project that has contents, run as they are written.

docs/python.md, docs/providers.md, docs/simulators.md and README.md have tests of their own.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import chromadb
import numpy as np
import pytest
from tests.docs.conftest import variables

from flowbed.cli.app import run
from flowbed.embedding import open_embedder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docs.conftest import Shell

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r'"127\.0\.0\.1", port=8080|127\.0\.0\.1:8080')


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, in_shell: Shell) -> Path:
    """Return a project with the collections that the pages name."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "docs").mkdir()
    (folder / "docs" / "keys.md").write_text("We rotate the keys each month.\n")
    shutil.copy(ROOT / "demo" / "receipts.jsonl", folder)
    in_shell(folder, "flowbed init")
    in_shell(folder, "flowbed add handbook files docs --collection docs")
    in_shell(folder, "flowbed add shop receipts receipts.jsonl")
    in_shell(folder, "flowbed run")
    return folder


@pytest.fixture(scope="module")
def port(project: Path, commands: Path) -> Iterator[str]:
    """Serve the project, and yield the port."""
    serving = subprocess.Popen(
        [str(commands / "flowbed"), "serve", "--port", "0", "--json", "--config", str(project)],
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        yield str(urlsplit(json.loads(serving.stdout.readline())["url"]).port)
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


def run_blocks(found: list[str], port: str) -> dict[str, Any]:
    """Run blocks one after the other, against the server at `port`."""
    scope: dict[str, Any] = {}
    for block in found:
        assert "8080" not in ADDRESS.sub("", block)
        here = ADDRESS.sub(lambda found: found[0].replace("8080", port), block)
        exec(compile(here, "docs", "exec"), scope)  # noqa: S102 - our own example
    return scope


def test_docs_of_the_server_blocks_run(port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run_blocks(blocks("server.md", "python"), port)
    assert json.loads(scope["answers"])["response"]["status_code"] == 200
    scope["client"].close()


def test_docs_of_the_client_blocks_run(port: str) -> None:
    assert len(blocks("client.md", "python")) == 2
    run_blocks(blocks("client.md", "python"), port)


def test_docs_of_vector_stores_block_runs(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope = run_blocks(blocks("vector-stores.md", "python"), port)
    assert capsys.readouterr().out.startswith("keys.md # Keys")
    scope["client"].close()


def test_docs_of_documents_block_runs(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks(blocks("documents.md", "python"), port)
    assert capsys.readouterr().out == "Tea is served at four.\n"


def test_docs_of_chroma_client_blocks_run(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    clients = [block for block in blocks("chroma.md", "python") if "flowbed.open" not in block]
    assert len(clients) == 3
    scope = run_blocks(clients, port)
    found = scope["docs"].query(query_texts=["how are keys rotated?"])
    assert found["documents"] == [["We rotate the keys each month."]]


def test_docs_of_chroma_import_block_runs(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["one text", "another"]
    model = open_embedder("onnx:", cache=graphs, options={})
    vectors = asyncio.run(model.embed(texts, purpose="document")).vectors
    place = tmp_path / "my-project" / "path" / "to" / "chroma"
    old = chromadb.PersistentClient(str(place)).create_collection("old", embedding_function=None)
    old.add(ids=["1", "2"], embeddings=np.asarray(vectors), documents=texts)
    (block,) = [block for block in blocks("chroma.md", "python") if "flowbed.open" in block]
    monkeypatch.chdir(tmp_path)
    for name in ("FLOWBED_MODEL", "FLOWBED_STORE"):
        monkeypatch.delenv(name, raising=False)
    run_blocks([f"{block}    assert bed.status().collections['docs'].rows == 3\n"], "")


def test_docs_of_filters_block_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("filters.md", "python")
    monkeypatch.chdir(project)
    run_blocks([block], "")


def test_docs_of_search_commands_and_block_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    run_blocks(blocks("search.md", "python"), "")
    for command in "".join(blocks("search.md", "console")).splitlines():
        assert run(shlex.split(command.removeprefix("$ flowbed "))) == 0, capsys.readouterr()


def test_docs_of_the_first_ten_minutes_blocks_run(tmp_path: Path, in_shell: Shell) -> None:
    """All but the installation and the server run in turn in an empty folder; then a question about it is asked."""
    shell = blocks("index.md", "sh")
    assert "pip install" in shell[0]
    assert "curl" in shell[-1]
    index, search, change, ask = (in_shell(tmp_path, block) for block in shell[1:-1])
    assert "2 documents fetched" in index
    assert "Keys are rotated every Monday" in search
    assert "1 chunks indexed, 1 deleted" in change or "1 chunk indexed, 1 deleted" in change
    assert "Keys are rotated every Monday" in change  # in the version before
    assert "handbook#tea.txt#00000" in ask
    (why,) = blocks("questions.md", "sh")
    assert "handbook#tea.txt" in in_shell(tmp_path, why)


def test_docs_of_the_first_ten_minutes_request_is_answered(port: str, in_shell: Shell) -> None:
    """The collection of the page is called otherwise in this project."""
    request = blocks("index.md", "sh")[-1].replace("8080", port).replace("handbook", "docs")
    assert json.loads(in_shell(Path.cwd(), request))["hits"]


def test_docs_of_migrating_blocks_run(
    tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch, in_shell: Shell
) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    texts = ["Keys are rotated on Monday.", "Tea is at four."]
    model = open_embedder("onnx:", cache=graphs, options={})
    vectors = asyncio.run(model.embed(texts, purpose="document")).vectors
    old = chromadb.PersistentClient(str(tmp_path / "path" / "to" / "chroma"))
    old.create_collection("old", embedding_function=None).add(
        ids=["1", "2"], embeddings=np.asarray(vectors), documents=texts
    )
    table = pa.table({"id": ["1", "2"], "vector": [list(map(float, row)) for row in vectors], "text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "vectors.parquet")
    from_chroma, from_parquet = blocks("migrating.md", "sh")
    assert "Keys are rotated on Monday." in in_shell(tmp_path, from_chroma)
    in_shell(tmp_path, from_parquet)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("migrating.md", "python")
    run_blocks([block], "")


def test_docs_of_operations_block_runs(project: Path, in_shell: Shell) -> None:
    (block,) = blocks("operations.md", "sh")
    in_shell(project, block)
