"""Killed at random moments between the first batch file and the commit, once and again."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from flowbed.testing.counting import CountingProcess
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.conftest import Project

PROJECTS, KILLS = 5, 4  # 20 kills in all
# The first run of these projects lasts about so long from its first batch file to its last commit.
SECONDS = 0.7
DELAY = 0.02

RUN = ("--allow-deletes",)  # the edits remove most of the records
WORDS = ("pier", "quay", "reef", "sand", "tide", "wave")


def edit(project: Project, chance: random.Random, turn: int) -> None:
    """Add files, write some anew and remove some; and change, add and remove records."""
    docs = project.folder / "docs"
    there = sorted(docs.glob("*")) if docs.exists() else []
    for path in chance.sample(there, min(2, len(there))):
        path.unlink()
    names = [path.name for path in chance.sample(there, min(4, len(there)))]
    for name in [*names, *(f"{turn}-{number}.md" for number in range(12))]:
        project.write_text(f"docs/{name}", " ".join([*chance.choices(WORDS, k=30), str(chance.random())]))
    # Numbers that stay the same from turn to turn are records that stay; others come, change and go.
    records = [{"id": number, "text": f"{number} of {number}"} for number in range(20)]
    records += [
        {"id": chance.randrange(20, 2_000), "text": f"{turn} {chance.random()} {chance.choice(WORDS)}"}
        for _ in range(150)
    ]
    project.write_lines("notes.jsonl", list({record["id"]: record for record in records}.values()))


@pytest.mark.parametrize("seed", range(PROJECTS))
async def test_runs_killed_at_random_moments_end_as_if_they_never_were(
    seed: int, project: Project, tmp_path: Path
) -> None:
    """After kills of run upon run, with edits between some, a last run gives the index of one that was left alone."""
    chance = random.Random(seed)
    project.write_source("docs", "files", "docs")
    project.write_source("notes", "jsonl", "notes.jsonl")
    edit(project, chance, 0)
    after, seconds, story, in_flight, kills = "batch.written", SECONDS, [], 0, 0
    with CountingProcess(delay=DELAY) as provider:
        while kills < KILLS:
            moment = chance.uniform(0, seconds)
            ended = await (await project.begun(provider, *RUN, after=after)).ended(
                signal.SIGKILL, after=moment
            )
            story.append(f"{moment:.3f} s after {after}: {ended.returncode}")
            in_flight += ended.in_flight
            if ended.returncode == -signal.SIGKILL:
                kills += 1
            else:
                assert ended.returncode == 0, (story, ended.stderr)
                seconds *= 0.7  # it was done before its moment came, which is no kill
            if ended.returncode == 0 or chance.random() < 0.4:
                edit(project, chance, len(story))
                after = "batch.written"
            else:
                after = "'stage': 'embed'" if "fetch.swapped" in ended.stderr else "'stage': 'fetch'"
        last = project.run(provider, *RUN)
        assert last.returncode == 0, (story, last.stdout, last.stderr)
        twice = sum(times - 1 for times in provider.report().texts.values())
    print(f"seed {seed}: {twice} texts sent twice, {in_flight} in flight", *story, sep="\n")  # noqa: T201 - on failure
    project.assert_finished()
    assert_same(project.contents(), project.anew(tmp_path / "anew"))
    assert twice <= in_flight
