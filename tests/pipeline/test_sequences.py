"""After any sequence of edits and runs exactly the existing files are searchable."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st

from flowbed.bed import aopen
from flowbed.testing.index import contents_of

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = st.sampled_from(["a.txt", "b.md", "c.txt", "below/d.txt", "below/e.md"])
# Few texts, so that they repeat, are shared, and move between files; an empty one makes no chunk.
TEXTS = st.sampled_from(["", "one", "two", "three", "# Head\n\nfour", "one\n\ntwo"])
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, TEXTS),
    st.tuples(st.just("remove"), NAMES, st.just("")),
    st.tuples(st.just("run"), st.just(""), st.just("")),
    st.tuples(st.just("part"), st.just(""), st.just("")),
)


@pytest.mark.parametrize("examples", [5, pytest.param(400, marks=pytest.mark.long)])
def test_run_any_edits_indexes_what_is_there(examples: int) -> None:
    """After any writes and removals of files, and whole and partial runs between, the index is what is there."""

    @hypothesis.settings(max_examples=examples, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    @hypothesis.given(st.lists(STEPS, min_size=4, max_size=16))
    def search(steps: Sequence[tuple[str, str, str]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(carry_out(Path(folder), steps))

    search()


async def carry_out(folder: Path, steps: Sequence[tuple[str, str, str]]) -> None:
    (folder / "docs" / "below").mkdir(parents=True)
    (folder / "flowbed.toml").write_text('model = "seeded:16"\n', "utf-8")
    there: dict[str, str] = {}
    ever: set[str] = set()
    paid = 0
    async with await aopen(folder) as bed:
        await bed.add("docs", kind="files", location="docs")
        for step, name, text in (*steps, ("run", "", "")):
            if step == "write":
                (folder / "docs" / name).write_text(text, "utf-8")
                there[name] = text
                ever |= {text} - {""}
            elif step == "remove":
                (folder / "docs" / name).unlink(missing_ok=True)
                there.pop(name, None)
            elif step == "part":
                paid += (await bed.run(limit=1)).embedded
            else:
                report = await bed.run()
                assert report.failed == 0
                paid += report.embedded
                found = contents_of(folder).rows.get("docs", {})
                assert {key: row.document for key, row in found.items()} == {
                    f"docs#{name}#00000": text for name, text in there.items() if text
                }
        for name, text in there.items():
            if text:
                hits = await bed.search(text, limit=10)
                assert f"docs#{name}#00000" in {hit.id for hit in hits}
        again = await bed.run()
    assert paid <= len(ever)  # no text is sent twice, even if it moved
    assert (again.chunks, again.embedded, again.deleted) == (0, 0, 0)
