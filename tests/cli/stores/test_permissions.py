"""Who may read what a project keeps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_project_is_readable_by_its_owner_alone_whatever_the_umask(
    umask: int, project: Path, flowbed: Call
) -> None:
    """Lance gives its files the modes of the umask, in a folder that is closed."""
    before = os.umask(umask)
    try:
        (project / "r.jsonl").write_text(json.dumps({"id": "a", "text": "secret"}) + "\n")
        for command in (["init"], ["add", "r", "jsonl", "r.jsonl"], ["run"], ["keys", "create", "web"]):
            assert flowbed(*command).status == 0
    finally:
        os.umask(before)
    hidden = project / ".flowbed"
    index = hidden / "store" / "r" / "index"
    assert index.exists()
    open_to_others = [
        path
        for path in (hidden, *hidden.rglob("*"))
        if index not in path.parents and path.stat().st_mode & 0o077
    ]
    assert open_to_others == []
    assert flowbed("doctor", "--json").json["findings"] == []


def test_store_and_ledger_elsewhere_are_readable_by_their_owner_alone(
    project: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` is the home folder."""
    home = project.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (project / "r.jsonl").write_text(json.dumps({"id": "a", "text": "secret"}) + "\n")
    (project / "flowbed.toml").write_text(
        'store = "~/store"\nledger = "~/state/ledger.db"\n[sources.r]\nkind = "jsonl"\nlocation = "r.jsonl"\n'
    )
    assert flowbed("run").status == 0
    assert not (project / "~").exists()
    for path in (home / "store", home / "state", home / "state" / "ledger.db"):
        assert not path.stat().st_mode & 0o077, path
    assert flowbed("doctor", "--json").json["findings"] == []
    (home / "store").chmod(0o755)
    (finding,) = flowbed("doctor", "--json").json["findings"]
    assert finding["fix"] == f"chmod -R o-rwx {home}/store"


def test_store_in_the_home_of_nobody_is_refused(
    project: Path, flowbed: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "flowbed.toml").write_text("")
    monkeypatch.setenv("FLOWBED_STORE", "~nobody-of-this-name/store")
    assert "write the whole path" in flowbed("status").err
