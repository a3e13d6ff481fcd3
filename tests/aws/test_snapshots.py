"""Chroma snapshots on a file system that readers share, where compaction can write to it and where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.aws.conftest import Deployment


def test_snapshots_stay_in_the_store_where_auto_finds_no_file_system(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit and the publication stand, the log says why, and the next call copies; `efs` insists."""
    settings = deployment.package / "flowbed.toml"
    settings.write_text(f'{settings.read_text()}[publish.lines]\nkind = "chroma"\n')
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})

    def compact(mode: str, root: Path | None) -> tuple[float, str]:
        """Call compaction; return how many snapshots it copied, and what it says of those that it did not."""
        monkeypatch.setenv("CHROMADB_STORAGE_MODE", mode)
        monkeypatch.delenv("CHROMA_ROOT", raising=False)
        if root is not None:
            monkeypatch.setenv("CHROMA_ROOT", str(root))
        deployment.lines.clear()
        deployment.call("compaction")
        said = [line["message"] for line in deployment.lines if "snapshots stay" in line.get("message", "")]
        return deployment.metrics("flowbed")["SnapshotsCopied"], " ".join(said)

    missing, full = tmp_path / "missing", tmp_path / "full"
    full.mkdir()
    (full / "snapshots").write_text("not a folder")
    assert compact("auto", missing) == (0, f"snapshots stay in the store: {missing} is not a folder")
    copied, said = compact("auto", full)
    assert copied == 0
    assert f"{full} cannot be written" in said
    assert compact("auto", None) == (0, "")
    for root in (missing, full):
        with pytest.raises(Misconfigured, match="needs a mounted file system"):
            compact("efs", root)
    missing.mkdir()
    assert compact("s3", missing) == (0, "")
    assert compact("auto", missing) == (1, "")
    assert list((missing / "snapshots" / "lines").iterdir())
    assert compact("auto", missing) == (0, "")
    assert len(deployment.contents().rows["lines"]) == 3
