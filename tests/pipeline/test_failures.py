"""Failures become dead letters with their reason, and never stop the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from tests.support.projects import Project


@pytest.mark.parametrize("names_inputs", ["true", "false"])
async def test_run_refused_text_does_not_stop_the_others(project: Project, names_inputs: str) -> None:
    """Refused texts are FAILED with the provider's reason, whether or not it names them; all others are committed."""
    project.set_model("seeded:32", names_inputs=names_inputs, items="8")
    for number in range(30):
        text = f"POISON {number}" if number % 10 == 3 else f"document {number}"
        project.write(f"docs/{number:02d}.txt", f"{text} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        report = await bed.run()
        assert (report.chunks, report.embedded, report.failed) == (27, 27, 3)
        assert {problem.subject for problem in report.failures} == {
            f"docs#{n}.txt#00000" for n in ("03", "13", "23")
        }
        assert all("poison" in problem.reason for problem in report.failures)
        assert (await bed.status()).chunks == {"SUCCESS": 27, "FAILED": 3}
        letters = await bed.dead_letters()
        assert {(letter.kind, letter.owner) for letter in letters} == {("chunk", "docs")}
        (reason,) = await bed.why("docs#03.txt#00000")
        assert "poison" in reason.verdict
        assert "dead-letters retry" in reason.verdict
        project.sent()
        assert (await bed.run()).chunks == 0  # refused texts are not tried again without a command
        assert not project.sent()


async def test_retry_dead_letter_embeds_it_again(project: Project) -> None:
    """A dead letter is retried by its name, or with all others."""
    for name in ("a", "b"):
        project.write(f"docs/{name}.txt", f"POISON {name} {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        with pytest.raises(NotFound, match=r"nothing like it"):
            await bed.retry_dead_letters("nothing like it")
        assert await bed.retry_dead_letters("docs#a.txt#00000") == 1
        assert [letter.subject for letter in await bed.dead_letters()] == ["docs#b.txt#00000"]
        assert (await bed.status()).chunks == {"NONE": 1, "FAILED": 1}
        project.sent()
        report = await bed.run()
        assert (report.failed, list(project.sent())) == (1, [f"POISON a {project.folder}"])
        assert await bed.retry_dead_letters() == 2
        assert await bed.dead_letters() == []
        project.write("docs/a.txt", "wholesome")
        report = await bed.run()
        assert (report.chunks, report.failed) == (1, 1)


async def test_run_corrected_text_is_embedded_without_a_command(project: Project) -> None:
    """A document whose refused text was corrected is committed by the next run, and its dead letter is removed."""
    project.write("docs/a.txt", f"POISON {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        assert (await bed.run()).failed == 1
        project.write("docs/a.txt", "wholesome")
        assert (await bed.run()).failed == 0
        assert (await bed.status()).chunks == {"SUCCESS": 1}
        assert await bed.dead_letters() == []
    assert project.documents("docs") == {"docs#a.txt#00000": "wholesome"}


async def test_run_transient_failure_is_tried_again(project: Project) -> None:
    """A request that fails once with a transient error succeeds within the same run."""
    project.write("docs/a.txt", f"FLAKY {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        report = await bed.run()
    assert (report.embedded, report.failed) == (1, 0)
    assert project.sent() == {f"FLAKY {project.folder}": 2}


async def test_run_failing_source_does_not_stop_the_other(notes: Project) -> None:
    """A source that cannot be read is named in the report; the others are brought up to date."""
    notes.write_lines("gone.jsonl", [{"id": 1, "text": "x"}])
    async with await notes.open() as bed:
        await bed.add("gone", kind="jsonl", location="gone.jsonl")
        (notes.folder / "gone.jsonl").unlink()
        notes.write("notes/five.txt", "a fifth note")
        report = await bed.run()
        assert (report.embedded, report.failed) == (1, 1)
        (problem,) = report.failures
        assert problem.subject == "source gone"
        assert "does not exist" in problem.reason
        with pytest.raises(Misconfigured, match="does not exist"):
            await bed.run("gone")
    assert len(notes.documents("notes")) == 5


@pytest.mark.parametrize("damage", ["missing", "damaged", "other"])
async def test_run_lost_texts_are_read_again(project: Project, damage: str) -> None:
    """Chunks whose batch file is gone or damaged fail with the reason, and the next run reads their documents again."""
    for number in range(4):
        project.write(f"docs/{number}.txt", f"document {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        assert (await bed.run(limit=2)).chunks == 2
        (batch,) = (project.folder / ".flowbed" / "store" / "docs" / "chunked").rglob("batch_*.json")
        if damage == "missing":
            batch.unlink()
        else:
            batch.write_text("{" if damage == "damaged" else '{"chunks": []}')
        report = await bed.run()
        assert report.failed == 2
        assert all(
            "read its document again" in problem.reason.replace("reads", "read")
            for problem in report.failures
        )
        assert (await bed.status()).chunks == {"SUCCESS": 2, "FAILED": 2}
        assert (await bed.status()).dead_letters == 0
        again = await bed.run()
        assert (again.failed, again.chunks) == (0, 2)
        assert (await bed.status()).chunks == {"SUCCESS": 4}
    assert sorted(project.sent().values()) == [1, 1, 1, 1]


async def test_run_id_too_long_fails_alone(project: Project) -> None:
    """A record whose id no ledger can hold is reported by its id, and all others are committed."""
    records = [
        {"id": "x" * 1_100, "text": f"long {project.folder}"},
        {"id": "b", "text": f"b {project.folder}"},
    ]
    project.write_lines("notes.jsonl", records)
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        report = await bed.run()
        assert (report.chunks, report.failed) == (1, 1)
        assert "longer than 1,024 bytes" in report.failures[0].reason
        assert [letter.kind for letter in await bed.dead_letters()] == ["source"]
