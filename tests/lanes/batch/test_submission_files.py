"""Submissions in the making, what live ones carry, and what jobs have answered."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbed.embedding.batch_api import Job, JobTerms, ResultLine
from flowbed.errors import NotFound, Rejected
from flowbed.lanes.batch.answer_files import (
    BEGINNING,
    MOST,
    Answers,
    bounded_lines,
    copy_answers,
    read_answers,
)
from flowbed.lanes.batch.cut import Size
from flowbed.lanes.batch.in_flight import InFlightTexts
from flowbed.lanes.batch.input import Input, input_key, output_key, read_texts, texts_key
from flowbed.ledger import SubmissionRow, open_ledger
from flowbed.records import Space, text_hash
from flowbed.storage import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

SPACE = Space(model="m", dimensions=2)
TERMS = JobTerms(texts=3, bytes=1_000, tokens=100, seconds=60, price=1.0, account="a", table="openai")


class Written:
    """A Batch API whose files are given, and that takes no jobs."""

    def __init__(self, terms: JobTerms = TERMS, **files: bytes) -> None:
        self.terms = terms
        self.files = files

    async def submit(self, submission: str, read: Callable[[], AsyncIterator[bytes]], *, size: int) -> Job:
        raise Rejected("it takes none")

    async def find(self, submission: str) -> Job | None:
        return None

    async def retrieve(self, job: str) -> Job:
        raise NotFound("it has none")

    async def cancel(self, job: str) -> None:
        raise NotFound("it has none")

    async def aclose(self) -> None:
        self.files = {}

    def line(self, name: str, text: str) -> bytes:
        return orjson.dumps([name, text]) + b"\n"

    def parse_input(self, line: bytes) -> tuple[str, str]:
        name, text = orjson.loads(line)
        return name, text

    async def download(self, file: str) -> AsyncIterator[bytes]:
        if file not in self.files:
            raise NotFound(f"no file {file}")
        body = self.files[file]
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    def parse_result(self, line: bytes) -> ResultLine:
        try:
            name, vector, tokens, failure, reason = orjson.loads(line)
        except ValueError as error:
            raise Rejected("no line of answers") from error
        return ResultLine(
            name=name,
            vector=None if vector is None else np.array(vector, np.float32),
            tokens=tokens,
            failure=failure,
            reason=reason,
        )


def answer(text: str, vector: Sequence[float] | None = None, *, failure: str = "", tokens: int = 1) -> bytes:
    return orjson.dumps([text_hash(text), vector, tokens if vector else None, failure, "why"]) + b"\n"


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 60)), max_size=60),
    st.integers(1, 10),
    st.integers(1, 900),
    st.one_of(st.none(), st.integers(1, 100)),
)
def test_size_cuts_within_every_limit_and_loses_nothing(
    texts: list[tuple[int, int]], most: int, size: int, tokens: int | None
) -> None:
    """No submission passes a limit, but for a text that does so alone; each text is in one, in order."""
    terms = JobTerms(texts=most, bytes=size, tokens=tokens, seconds=1, price=0, account="a", table="openai")
    cuts: list[list[tuple[int, int]]] = [[]]
    open_ = Size()
    for length, count in texts:
        if not open_.fits(terms, length=length, tokens=count):
            cuts.append([])
            open_ = Size()
        open_.add(length=length, tokens=count)
        cuts[-1].append((length, count))
    assert [each for cut in cuts for each in cut] == texts
    for cut in cuts:
        assert len(cut) <= most
        if len(cut) > 1:
            assert sum(length for length, _ in cut) <= size
            assert tokens is None or sum(count for _, count in cut) <= tokens


async def test_input_holds_each_text_once_and_says_when_full(tmp_path: Path) -> None:
    """The file in the store is the lines in order, beside the hashes of their texts in the same order."""
    store = open_store("memory://", folder=tmp_path)
    made = Input("s1", Written())
    for text in ("one", "two", "three"):
        line = Written().line(text_hash(text), text)
        assert made.fits(line, tokens=1)
        made.add(text_hash(text), line, tokens=1)
        assert text_hash(text) in made
    assert not made.fits(b"four", tokens=1)
    assert text_hash("four") not in made
    await made.write(store)
    made.close()
    lines = (await store.get(input_key("s1"))).body.splitlines()
    assert [orjson.loads(line)[1] for line in lines] == ["one", "two", "three"]
    assert await read_texts("s1", store) == [text_hash(each) for each in ("one", "two", "three")]


async def test_in_flight_texts_of_live_submissions_are_known_until_they_end(tmp_path: Path) -> None:
    """A text is found where a live submission of the same space carries it, and nowhere else, whatever its hash."""
    store = open_store("memory://", folder=tmp_path)
    ledger = await open_ledger(":memory:", folder=tmp_path, new_id="l")
    carried = InFlightTexts(store, ledger, SPACE)
    names = {f"s{number}": [f"{number} {place}" for place in range(50)] for number in range(3)}
    # Two texts whose hashes begin alike are two texts.
    twin = hashlib.sha256(b"0 0").hexdigest()[:16] + "0" * 48
    for name, texts in names.items():
        space = SPACE if name != "s2" else Space(model="other", dimensions=2)
        made = Input(
            name,
            Written(
                JobTerms(texts=99, bytes=10**6, tokens=None, seconds=1, price=0, account="a", table="openai")
            ),
        )
        for text in texts:
            made.add(text_hash(text), b"a line", tokens=1)
        await made.write(store)
        made.close()
        await ledger.submissions.create(
            SubmissionRow(
                id=name, space=space.to_json(), account="a", key=input_key(name), bytes=1, texts=50, chunks=50,
                tokens=1, created=1,
            )
        )  # fmt: skip
    asked = [text_hash(text) for texts in names.values() for text in texts] + [text_hash("nobody's"), twin]
    assert not carried.find(asked)
    await carried.refresh()
    assert carried.find(asked) == {text_hash(text): name for name in ("s0", "s1") for text in names[name]}
    assert not carried.find([])
    held = await ledger.submissions.hold("s0", worker="w", now=1, until=2)
    assert held is not None
    await ledger.submissions.save(replace(held, ended=5, worker=""), worker="w")
    await carried.refresh()
    assert set(carried.find(asked).values()) == {"s1"}
    await ledger.close()


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["make", "make", "make", "end", "look"]), st.integers(0, 9)), max_size=25
    )
)
def test_in_flight_texts_any_history_knows_exactly_the_live_ones(steps: list[tuple[str, int]]) -> None:
    """Made one by one or several between two looks, and ended in any order: what is told is what live ones carry."""

    async def main() -> None:
        store = open_store("memory://", folder=Path())
        ledger = await open_ledger(":memory:", folder=Path(), new_id="l")
        carried = InFlightTexts(store, ledger, SPACE)
        live: dict[str, list[str]] = {}
        every = []
        for number, (step, value) in enumerate([*steps, ("look", 0)]):
            name = f"s{number}"
            if step == "make":
                live[name] = [text_hash(f"{number} {place}") for place in range(value)]
                every += live[name]
                await store.put(texts_key(name), bytes.fromhex("".join(live[name])))
                await ledger.submissions.create(
                    SubmissionRow(
                        id=name, space=SPACE.to_json(), account="a", key=input_key(name), bytes=1, texts=value,
                        chunks=value, tokens=1, created=number,
                    )
                )  # fmt: skip
            elif step == "end" and live:
                gone = sorted(live)[value % len(live)]
                held = await ledger.submissions.hold(gone, worker="w", now=1, until=2)
                assert held is not None
                await ledger.submissions.save(replace(held, ended=5, worker=""), worker="w")
                del live[gone]
            elif step == "look":
                await carried.refresh()
                assert carried.find(every) == {each: name for name, texts in live.items() for each in texts}
                assert set(carried.names) == set(live)
        await ledger.close()

    asyncio.run(main())


async def test_read_answers_any_order_counts_each_once(tmp_path: Path) -> None:
    """A vector counts, also where a failure was told before; what cannot be read, or differs, is as if missing."""
    store = open_store("memory://", folder=tmp_path)
    output = b"".join(
        [
            answer("b", [0, 1], tokens=5),
            answer("a", [1, 0]),
            b"{garbled\n",
            answer("a", [1, 0]),
            answer("f", [0, 1]),
            answer("f", [0.6, 0.8]),
            answer("f", [0, 1]),
            answer("c", failure="transient"),
            answer("c", [0.5, 0.5])[:-1],
        ]
    )
    errors = answer("d", failure="rejected") + answer("e", failure="expired") + b"\n"
    api = Written(out=output, err=errors)
    job = Job(id="j", state="completed", output="out", errors="err")
    await copy_answers(job, "s", api, store)
    api.files.clear()
    await copy_answers(job, "s", api, store)
    with await read_answers("s", api, store) as answers:
        found = answers.vectors([text_hash(each) for each in "abcdef"])
        assert {key: vector.tolist() for key, vector in found.items()} == {
            text_hash("a"): [1, 0],
            text_hash("b"): [0, 1],
            text_hash("c"): [0.5, 0.5],
        }
        assert answers.failures == {text_hash("d"): ("rejected", "why")}
        assert answers.expired == {text_hash("e")}
        assert answers.conflicting == {text_hash("f")}
        assert (answers.doubled, answers.unreadable) == (3, 1)
        assert answers.billed == {text_hash(each): 5 if each == "b" else 1 for each in "abcf"}
        assert [answers.tell("x"), answers.tell("x"), answers.tell("y")] == [True, False, True]


@pytest.mark.parametrize("size", [1, 7, 100_000, 10**9])
async def test_bounded_lines_long_line_is_cut_and_others_are_read(size: int) -> None:
    """A line without end takes no memory, wherever pieces of the file begin; a byte order mark is skipped."""
    content = b"\xef\xbb\xbfone\n\n" + b"x" * (MOST + 200_000) + b"\n  \ntwo\r\n" + b"y" * 10 + b"\nend"
    if size < 100:  # small pieces around the lines, and large ones within the long one
        cuts = [
            *range(0, 40, size),
            *range(40, len(content) - 40, 65_536),
            *range(len(content) - 40, len(content), size),
        ]
    else:
        cuts = list(range(0, len(content), size))

    async def pieces() -> AsyncIterator[bytes]:
        for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True):
            yield content[start:end]

    found = [line async for line in bounded_lines(pieces())]
    assert found == [b"one", b"x" * BEGINNING, b"two", b"y" * 10, b"end"]


async def test_copy_answers_lost_file_is_reported(tmp_path: Path) -> None:
    """What the provider has lost is not taken for a job without answers."""
    store = open_store("memory://", folder=tmp_path)
    job = Job(id="j", state="completed", output="out", errors="bad")
    assert await copy_answers(job, "s", Written(bad=answer("one", failure="rejected")), store) == ["out"]
    with pytest.raises(NotFound):
        await store.get(output_key("s"))


def test_answers_thousand_vectors_reads_those_asked_for() -> None:
    """However many vectors there are, reading some of them gives just those."""
    with Answers() as answers:
        for place in range(1_000):
            answers.add(ResultLine(name=f"{place}", vector=np.full(3, place, np.float32), tokens=1))
        assert len(answers) == 1_000
        found = answers.vectors(f"{place}" for place in (999, 0, 5, 2_000))
        assert {name: vector[0] for name, vector in found.items()} == {"0": 0, "5": 5, "999": 999}
