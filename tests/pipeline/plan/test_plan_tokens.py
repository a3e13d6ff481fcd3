"""The tokens of a plan are those that the run is billed with, on real text and with the local model's own tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.bed import aopen

if TYPE_CHECKING:
    from pathlib import Path


def first(path: Path, count: int) -> str:
    """Read the first lines of a file."""
    with path.open(encoding="utf-8") as file:
        return "".join(line for line, _ in zip(file, range(count), strict=False))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as it is"),
        pytest.param({"overflow": "truncate"}, id="cut off"),
        pytest.param({"overflow": "reject"}, id="refused"),
        pytest.param({"document_prompt": "passage: "}, id="with a prompt"),
    ],
)
async def test_run_plan_bills_the_planned_tokens(options: dict[str, str], data: Path, tmp_path: Path) -> None:
    """For receipts, long documents and titled abstracts, some longer than the window, planned equals billed."""
    folder = tmp_path / "project"
    folder.mkdir()
    said = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    (folder / "flowbed.toml").write_text(f'model = "onnx:"\n[model_options]\n{said}', "utf-8")
    (folder / "receipts.jsonl").write_text(first(data / "receipts.jsonl", 1), "utf-8")
    (folder / "abstracts.jsonl").write_text(first(data / "retrieval" / "corpus.jsonl", 10), "utf-8")
    (folder / "documents").mkdir()
    for path in sorted((data / "documents").glob("*.md"))[:1]:
        (folder / "documents" / path.name).write_text(path.read_text("utf-8")[:5_000], "utf-8")
    async with await aopen(folder) as bed:
        await bed.add("receipts", kind="receipts", location="receipts.jsonl", options={"neighbours": 2})
        # Chunks longer than the window of 254 tokens, and texts with their titles in front.
        await bed.add("abstracts", kind="jsonl", location="abstracts.jsonl", options={"capacity": 400})
        await bed.add("documents", kind="files", location="documents", options={"title": "name"})
        found = await bed.plan()
        assert found.plan_id is not None
        report = await bed.run(plan=found.plan_id)
        assert report.planned is not None
        assert found.tokens == report.planned.tokens == report.tokens > 1_000
        assert found.reused == report.reused
        assert (found.new, found.deleted) == (report.chunks + len(report.failures), 0)
        if options.get("overflow") == "truncate":
            assert report.truncated > 0
        assert bool(report.failures) == (options.get("overflow") == "reject")
        assert dict(report.drift) == {}
