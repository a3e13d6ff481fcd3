"""Variables of existing deployments, in a Lambda function and outside of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowbed import settings
from flowbed.errors import Misconfigured
from flowbed.settings import aws as variables
from flowbed.settings import read_settings
from flowbed.settings.environment import MOUNT, STORAGE_MODE
from flowbed.wiring import process

DOCS = Path(__file__).parents[2] / "docs"
AWS_PAGE, CHROMA_PAGE = DOCS / "aws.md", DOCS / "chroma.md"
STREAM = "2026/11/30/[$LATEST]4f1e"


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Run as a Lambda function without settings."""
    monkeypatch.setenv(variables.FUNCTION, "flowbed")
    monkeypatch.setenv(variables.SANDBOX, STREAM)
    named = (variables.TABLE, variables.CHROMA_URL, variables.CHROMA_HOST, STORAGE_MODE)
    for name in (*variables.BUCKETS, *named):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", variables.BUCKETS)
def test_bucket_and_table_of_a_function_are_store_and_ledger(
    function: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    function.setenv(name, "batches")
    function.setenv(variables.TABLE, "receipts")
    found = read_settings(tmp_path)
    assert (found.store, found.ledger) == ("s3://batches", "dynamodb://receipts")


def test_settings_in_the_file_of_a_function_come_first(function: pytest.MonkeyPatch, tmp_path: Path) -> None:
    function.setenv("S3_BUCKET", "batches")
    function.setenv("CHROMADB_BUCKET", "vectors")  # need not agree: none of them counts
    function.setenv(variables.TABLE, "receipts")
    (tmp_path / "flowbed.toml").write_text('store = "s3://own/index"\nledger = "postgresql://db/own"\n')
    found = read_settings(tmp_path)
    assert (found.store, found.ledger) == ("s3://own/index", "postgresql://db/own")


def test_variables_outside_a_function_change_nothing(function: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An operator whose shell has them reaches the project of `flowbed.toml`."""
    function.delenv(variables.FUNCTION)
    function.setenv("S3_BUCKET", "batches")
    function.setenv(variables.TABLE, "receipts")
    function.setenv(variables.CHROMA_URL, "http://chroma:8000")
    assert read_settings(tmp_path) == settings.Settings()
    assert settings.sandbox() == ""


def test_several_buckets_are_refused_by_name(function: pytest.MonkeyPatch, tmp_path: Path) -> None:
    function.setenv("S3_BUCKET", "batches")
    function.setenv("CHROMADB_BUCKET", "vectors")
    with pytest.raises(Misconfigured, match="S3_BUCKET = batches and CHROMADB_BUCKET = vectors name several"):
        read_settings(tmp_path)


def test_bucket_as_a_name_and_as_an_address_is_the_same(function: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The table may be an address too."""
    function.setenv("S3_BUCKET", "batches")
    function.setenv("S3_BUCKET_NAME", "s3://batches")
    function.setenv("CHROMADB_BUCKET", "s3://batches/")
    function.setenv(variables.TABLE, "dynamodb://receipts?region=eu-west-1")
    found = read_settings(tmp_path)
    assert (found.store, found.ledger) == ("s3://batches", "dynamodb://receipts?region=eu-west-1")


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ({variables.CHROMA_URL: "https://chroma.internal"}, "https://chroma.internal"),
        ({variables.CHROMA_URL: "chroma:8001"}, "http://chroma:8001"),
        ({variables.CHROMA_HOST: "chroma"}, "http://chroma:8000"),
        ({variables.CHROMA_HOST: "chroma", variables.CHROMA_PORT: "9000"}, "http://chroma:9000"),
        ({variables.CHROMA_HOST: "https://chroma/", variables.CHROMA_PORT: "443"}, "https://chroma:443"),
    ],
)
def test_chroma_server_of_a_function_is_published_to(
    function: pytest.MonkeyPatch, tmp_path: Path, said: dict[str, str], url: str
) -> None:
    for name, value in said.items():
        function.setenv(name, value)
    (found,) = read_settings(tmp_path).publish.values()
    assert (found.kind, found.collections, found.options) == ("chroma-server", ["*"], {"url": url})
    (tmp_path / "flowbed.toml").write_text(
        '[publish.own]\nkind = "chroma-server"\noptions = {url = "http://own"}\n'
    )
    assert set(read_settings(tmp_path).publish) == {"own"}


def test_storage_mode_of_a_function_publishes_snapshots_of_every_collection(
    function: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A deployment whose readers have the variable gets what they read; settings of its own come first."""
    function.setenv("CHROMADB_STORAGE_MODE", "auto")
    (found,) = read_settings(tmp_path).publish.values()
    assert (found.kind, found.every, found.collections) == ("chroma", "commit", ["*"])
    (tmp_path / "flowbed.toml").write_text('[publish.lines]\nkind = "chroma"\nevery = "1h"\n')
    assert list(read_settings(tmp_path).publish) == ["lines"]
    function.delenv(variables.FUNCTION)
    (tmp_path / "flowbed.toml").unlink()
    assert read_settings(tmp_path).publish == {}


@pytest.mark.parametrize("port", ["http", "0", "70000", "٨٠"])
def test_port_of_a_chroma_server_that_is_none_is_named(
    function: pytest.MonkeyPatch, tmp_path: Path, port: str
) -> None:
    function.setenv(variables.CHROMA_HOST, "chroma")
    function.setenv(variables.CHROMA_PORT, port)
    with pytest.raises(Misconfigured, match=f"CHROMADB_PORT is '{port}'; it has to be a port"):
        read_settings(tmp_path)


def test_function_folder_has_the_settings_of_the_package(
    function: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It follows the package, and a package without settings leaves none of another."""
    package = tmp_path / "package"
    package.mkdir()
    function.setenv(variables.ROOT, str(package))
    function.setattr("tempfile.tempdir", str(tmp_path))
    for text in ('model = "seeded:16"\n', 'model = "seeded:32"\n'):
        (package / "flowbed.toml").write_text(text)
        assert (settings.function_folder() / "flowbed.toml").read_text() == text
    (package / "flowbed.toml").unlink()
    assert not (settings.function_folder() / "flowbed.toml").exists()


def test_secrets_are_read_once_and_only_where_a_variable_names_one(function: pytest.MonkeyPatch) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:openai-AbC"
    function.setenv("OPENAI_API_KEY", arn)
    function.setenv("VOYAGE_API_KEY", "pa-plain")
    function.setenv("SLACK_TOKEN", arn.replace("openai", "slack"))
    asked: list[str] = []

    def read(name: str) -> str:
        asked.append(name)
        return f"key {len(asked)}"

    settings.resolve_secrets(read)
    settings.resolve_secrets(read)
    assert asked == [arn, arn.replace("openai", "slack")]
    assert settings.secrets_named() == {}
    assert settings.source_token("slack") == "key 2"
    _, options = settings.provider_options(settings.Settings(), "openai:text-embedding-3-small")
    assert options["api_key"] == "key 1"


def test_worker_of_another_sandbox_is_never_known_to_be_dead(function: pytest.MonkeyPatch) -> None:
    """Sandboxes share host names and number their processes alike."""
    mine = process.worker()
    assert mine.startswith(f"{STREAM}/")
    assert not process.dead(mine)
    assert process.dead(mine.replace(mine.rsplit("/", 3)[1], "99999999"))
    function.setenv(variables.SANDBOX, "2026/11/30/[$LATEST]other")
    assert not process.dead(mine.replace(mine.rsplit("/", 3)[1], "99999999"))


def test_every_variable_of_existing_deployments_is_documented() -> None:
    """And the page names no variable that nobody reads."""
    table = AWS_PAGE.read_text().partition("| variable | what it sets |")[2].partition("\n\n")[0]
    named = set(
        re.findall(r"`([A-Z][A-Z_0-9]{5,})`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    )
    commits = {
        f"{name}" for name in re.findall(r"^\| `([A-Z_]+)` \| `commit", CHROMA_PAGE.read_text(), re.MULTILINE)
    }
    chroma = {variables.CHROMA_URL, variables.CHROMA_HOST, variables.CHROMA_PORT, STORAGE_MODE, MOUNT}
    keys = {"OPENAI_API_KEY", "VOYAGE_API_KEY", "GOOGLE_PLACES_API_KEY"}
    assert keys - {"GOOGLE_PLACES_API_KEY"} <= set(variables.KEYS)
    assert named == {*variables.BUCKETS, variables.TABLE, variables.QUEUE, *commits, *chroma, *keys}
