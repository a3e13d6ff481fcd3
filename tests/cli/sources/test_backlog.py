"""From a space of Backlog to a hit with its link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from tests.cli.conftest import Called

    Call = Callable[..., Called]


def test_run_backlog_api_comments_are_found_and_the_key_is_stored_nowhere(
    flowbed: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written, commented and deleted reaches the search; the key is in no file and no output."""
    backlog = Backlog(key="verysecret")
    ops = backlog.add_project("OPS", "backlog")
    one = backlog.post(ops, "夜間バッチが止まる", "*手順\n-実行する")
    two = backlog.post(ops, "Login fails", "It hangs.")
    with running_thread(backlog, dated=False) as url:
        monkeypatch.setenv("BACKLOG_API_KEY", "verysecret")
        outputs = [flowbed("add", "tasks", "backlog", url)]
        assert f"  {url}: reads OPS\n" in outputs[-1].out
        outputs.append(flowbed("run", "--yes", "-v"))
        assert "2 documents fetched; 2 chunks indexed" in outputs[-1].out
        comment = backlog.comment(ops, one, "''空き''がありません")
        backlog.delete(ops, two)
        outputs.append(flowbed("run", "--yes"))
        found = flowbed("search", "空きがありません", "--json").json["hits"]
        assert {hit["document"] for hit in found} == {"# 手順\n- 実行する", "**空き**がありません"}
        assert f"{url}/view/OPS-{one}#comment-{comment}" in {hit["metadata"]["url"] for hit in found}
        outputs.append(flowbed("why", f"{url}/view/OPS-{one}#comment-{comment}"))
        assert f"tasks#{ops}#{one}#note_{comment}" in outputs[-1].out
        monkeypatch.setenv("BACKLOG_API_KEY", "othersecret")
        outputs.append(flowbed("run", "--yes"))
        assert "set BACKLOG_API_KEY" in outputs[-1].out + outputs[-1].err
    said = "".join(each.out + each.err for each in outputs).encode()
    kept = b"".join(path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert b"secret" not in said + kept
