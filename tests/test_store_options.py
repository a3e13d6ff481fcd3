"""Access to an S3 store, as set by `flowbed.toml` and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.settings import Settings, read_settings, store_options
from flowbed.settings.environment import KEYS, STANDARD

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, *(name for names in STANDARD.values() for name in names)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


S3 = Settings(store="s3://bucket")


def test_store_options_without_settings_and_variables_is_empty() -> None:
    """AWS's own server and key chain are used."""
    assert store_options(S3) == {}


def test_store_options_reads_aws_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint of S3 takes precedence over the general one."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    assert store_options(S3) == {"endpoint": "http://general", "region": "eu-west-1"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert store_options(S3) == {"endpoint": "http://s3", "region": "eu-north-1"}


def test_store_options_file_wins_over_aws_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    (tmp_path / "flowbed.toml").write_text(
        'store = "s3://bucket"\n[store_options]\nendpoint = "http://mine"\n'
    )
    assert store_options(read_settings(tmp_path)) == {"endpoint": "http://mine"}
    monkeypatch.setenv("FLOWBED_STORE_OPTIONS__ENDPOINT", "http://this-time")
    assert store_options(read_settings(tmp_path)) == {"endpoint": "http://this-time"}


def test_store_options_folder_ignores_aws_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert store_options(Settings(store="folder")) == {}


@pytest.mark.parametrize(
    ("variables", "profile"),
    [
        ({}, "default"),
        ({"AWS_PROFILE": "mine"}, "mine"),
        ({"AWS_PROFILE": "mine", "AWS_ACCESS_KEY_ID": "key"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/role"}, None),
    ],
)
def test_store_options_profile_is_used_only_without_keys_or_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], profile: str | None
) -> None:
    (tmp_path / "credentials").write_text("[default]\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert store_options(S3).get("profile") == profile
