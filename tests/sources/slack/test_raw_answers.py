"""What Slack answered is kept: a fetch from the beginning renders it again instead of calling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.sources.slack.test_web import DAY, TOKEN, Reader, problems, reading

from flowbed.testing.simulators.sources.slack import SlackWorkspace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project


def of_threads_and_days(channels: int = 2) -> SlackWorkspace:
    workspace = SlackWorkspace()
    for number in range(1, channels + 1):
        workspace.add_channel(f"C{number}", f"c{number}")
        for day in range(30):
            ts = f"{workspace.now - day * DAY}.{number:06d}"
            workspace.post(f"C{number}", f"day {day}", ts=ts)
            if day % 3 == 0:
                workspace.post(
                    f"C{number}", "an answer", thread=ts, ts=f"{workspace.now - day * DAY + 60}.000000"
                )
    silent = workspace.post("C1", "", subtype="channel_join")
    workspace.post("C1", "", thread=silent, subtype="channel_join")  # a thread without text
    workspace.now += 3_600
    return workspace


async def reset(reader: Reader) -> dict[str, list[str]]:
    """Fetch from the beginning; return what was held before."""
    before, reader.documents, reader.cursor = reader.documents, {}, ""
    reader.simulator.calls.clear()
    return before


async def test_reset_lists_everything_and_calls_for_what_changed_only(tmp_path: Path) -> None:
    workspace = of_threads_and_days()
    async with reading(workspace, raw=tmp_path / "raw.db", page=20) as reader:
        await reader.fetch()
        workspace.post("C1", "news")
        workspace.delete("C2", next(iter(workspace.channels["C2"].messages)))
        workspace.now += 3_600
        await reset(reader)
        fetched = await reader.fetch()
        assert [page.cursor for page in fetched[:-1]] == [""] * (len(fetched) - 1)
        assert fetched[-1].complete
        assert reader.calls("conversations.history") <= 2 * 2  # the last days, and a slice of older ones
        assert reader.calls("conversations.replies") <= 2 * 10
        listed = [each.document for page in fetched for each in page.entries]
        assert len(listed) == len(set(listed))
        fresh = Reader(reader.simulator, reader.source)
        (tmp_path / "raw.db").unlink()
        await fresh.fetch()
    assert reader.documents == fresh.documents
    assert (tmp_path / "raw.db").stat().st_mode & 0o777 == 0o600
    assert TOKEN.encode() not in (tmp_path / "raw.db").read_bytes()


async def test_reset_in_the_middle_of_the_past_goes_on_there(tmp_path: Path) -> None:
    workspace = of_threads_and_days(1)
    async with reading(workspace, raw=tmp_path / "raw.db", slow=True, minutes=4) as reader:
        await reader.fetch()
        assert 0 < len(reader.documents) < 30
        before = await reset(reader)
        fetched = await reader.fetch()
        assert not fetched[-1].complete
        assert set(before) <= set(reader.documents)
        for _ in range(12):
            await reader.fetch()
    assert len(reader.documents) == 30


async def test_reset_after_access_was_lost_renders_what_was_kept(tmp_path: Path) -> None:
    workspace = of_threads_and_days()
    async with reading(workspace, raw=tmp_path / "raw.db") as reader:
        await reader.fetch()
        workspace.channels["C2"].member = False
        before = await reset(reader)
        await reader.fetch()
        assert reader.documents == before


async def test_reset_renders_no_channel_that_the_options_left_out(tmp_path: Path) -> None:
    workspace = of_threads_and_days()
    async with reading(workspace, raw=tmp_path / "raw.db") as reader:
        await reader.fetch()
    async with reading(workspace, raw=tmp_path / "raw.db", channels="c1") as reader:
        fetched = await reader.fetch()
        assert fetched[-1].complete
        assert {each[:3] for each in reader.documents} == {"C1/"}


@pytest.mark.parametrize("damage", ["lost", "damaged", "partial"])
async def test_reset_without_its_raw_answers_asks_for_all(tmp_path: Path, damage: str) -> None:
    workspace = of_threads_and_days(1)
    file = tmp_path / "raw.db"
    async with reading(workspace, raw=file) as reader:
        await reader.fetch()
        file.unlink()
        if damage == "damaged":
            file.write_bytes(b"no database at all" * 100)
        if damage == "partial":
            workspace.post("C1", "news")
            workspace.now += 3_600
            await reader.fetch()
        before = await reset(reader)
        fetched = await reader.fetch()
        assert fetched[-1].complete
        assert set(reader.documents) == set(before)
        assert [each[:62] for each in problems(fetched)] == [
            f"{file}: answers of Slack cannot be kept for later"[:62]
        ] * (damage == "damaged")


async def test_strangers_are_asked_for_once(tmp_path: Path) -> None:
    """People whom the list of the workspace lacks are named in texts and as authors; a miss is remembered too."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.strangers["W7CONNECT"] = "Eve"
    workspace.post("C1", "hello <@W7CONNECT>", user="U1")
    workspace.post("C1", "hello", user="W7CONNECT")
    workspace.post("C1", "bye", user="U9GONE")
    workspace.now += 3_600
    async with reading(workspace, raw=tmp_path / "raw.db") as reader:
        await reader.fetch()
        assert reader.documents["C1/d/2026-01-05"] == ["Ann: hello @Eve", "Eve: hello", "U9GONE: bye"]
        assert reader.calls("users.info") == 2
        workspace.post("C1", "again", user="W7CONNECT")
        workspace.now += 3_600
        await reader.fetch()
        assert reader.documents["C1/d/2026-01-05"][-1] == "Eve: again"
        assert reader.calls("users.info") == 2


async def test_strangers_are_not_asked_for_without_the_scope() -> None:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.post("C1", "hello", user="W7CONNECT")
    workspace.now += 3_600
    async with reading(workspace, scopes=("channels:read", "channels:history", "groups:read")) as reader:
        await reader.fetch()
        assert reader.documents["C1/d/2026-01-05"] == ["W7CONNECT: hello"]
        assert reader.calls("users.info") == 0


async def test_forget_deletes_what_slack_answered(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting a document leaves its text in no file of the project."""
    from flowbed.testing.simulators import running
    from flowbed.testing.simulators.sources.slack import SlackSimulator

    monkeypatch.setenv("SLACK_TOKEN", TOKEN)
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.post("C1", "the words to forget")
    workspace.now += 3_600
    async with running(SlackSimulator(workspace), dated=False) as url, await project.open() as bed:
        await bed.add("team", kind="slack", location=f"{url}/api")
        await bed.run()
        answers = project.folder / ".flowbed" / "sources"
        assert list(answers.glob("slack-*.db"))
        await bed.forget(documents=["C1/d/2026-01-05"])
        assert not answers.exists()
