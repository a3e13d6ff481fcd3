"""How deltas are committed: the `[commit]` table, then the variables of other compactors, then the defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flowbed import settings
from flowbed.errors import Misconfigured
from flowbed.index.lease import LeaseTimes
from flowbed.settings import CommitRules, commit_rules, read_settings

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = {
    "CHUNK_SIZE": "7",
    "DELETE_PROCESSED_DELTAS": "true",
    "DELETE_INTERMEDIATE_CHUNKS": "false",
    "LOCK_DURATION_MINUTES": "3",
    "HEARTBEAT_INTERVAL_SECONDS": "60",
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without any of the variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_rules_without_settings_and_variables_are_the_defaults(tmp_path: Path) -> None:
    found = commit_rules(read_settings(tmp_path))
    assert found == CommitRules(
        deltas=10, delete_processed=False, delete_intermediate=True, lease_seconds=60, heartbeat_seconds=20
    )
    defaults = LeaseTimes()
    assert (found.lease_seconds, found.heartbeat_seconds) == (defaults.seconds, defaults.heartbeat)


def test_variables_apply_where_the_table_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = commit_rules(read_settings(tmp_path))
    assert found == CommitRules(
        deltas=7, delete_processed=True, delete_intermediate=False, lease_seconds=180, heartbeat_seconds=60
    )
    (tmp_path / "flowbed.toml").write_text(
        "[commit]\ndeltas = 3\ndelete_processed = false\ndelete_intermediate = true\nlease_minutes = 2\n"
        "heartbeat_seconds = 5\n"
    )
    assert commit_rules(read_settings(tmp_path)) == CommitRules(
        deltas=3, delete_processed=False, delete_intermediate=True, lease_seconds=120, heartbeat_seconds=5
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CHUNK_SIZE", "many", "CHUNK_SIZE is 'many'"),
        ("CHUNK_SIZE", "0", "from 1 to 64"),
        ("CHUNK_SIZE", "65", "from 1 to 64"),
        ("DELETE_PROCESSED_DELTAS", "perhaps", "DELETE_PROCESSED_DELTAS is 'perhaps'"),
        ("LOCK_DURATION_MINUTES", "-1", "would expire after one lost renewal"),
        ("LOCK_DURATION_MINUTES", "inf", "LOCK_DURATION_MINUTES is 'inf'"),
        ("HEARTBEAT_INTERVAL_SECONDS", "31", "would expire after one lost renewal"),
    ],
)
def test_variable_of_another_form_is_named(
    name: str, value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=reason):
        commit_rules(read_settings(tmp_path))


def test_table_of_another_form_is_refused(tmp_path: Path) -> None:
    for text, reason in (
        ("deltas = 65", "commit.deltas"),
        ("lease_minutes = 0", "commit.lease_minutes"),
        ("chunk = 1", "no such setting"),
    ):
        (tmp_path / "flowbed.toml").write_text(f"[commit]\n{text}\n")
        with pytest.raises(Misconfigured, match=reason):
            read_settings(tmp_path)


def test_settings_written_in_the_file_reach_the_context(tmp_path: Path) -> None:
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n[commit]\ndeltas = 2\n')
    config = read_settings(tmp_path)
    assert replace(config.commit, deltas=None) == settings.Settings().commit
