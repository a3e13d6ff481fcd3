"""Questions as people ask them, over chats and issues: conversation-wise and issue-wise chunks against fixed sizes."""

from __future__ import annotations

import asyncio
import csv
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.issue_pieces import TRIED as PIECES_TRIED
from benchmarks.issue_pieces import changed
from benchmarks.process import BENCH, ROOT
from benchmarks.results import Figure, table
from benchmarks.windows import TRIED, cut
from flowbed.chunking import Rules, chunk_as_read
from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.disk import VectorFile
from flowbed.embedding.reading import MULTILINGUAL
from flowbed.records.conversations import Conversation
from flowbed.records.issues import Issue
from flowbed.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.results import Options
    from flowbed.records import Document

# Each line: where the answer is, the ids of what answers, and the question. They were written for this benchmark after
# reading the answers, in other words than theirs; the data itself is not part of the project.
QUESTIONS = Path(__file__).parent / "questions.tsv"
# Others, written before any other chunks were tried on them, to check what was chosen on the first.
HELD_OUT = Path(__file__).parent / "questions-held-out.tsv"
# Each line: a text and a question.
JAPANESE = ROOT / "tests" / "retrieval" / "japanese.tsv"

SOURCES = {
    "slack": ("slack", "slack-export-racket"),
    "discord": ("discord", "discord.json"),
    "issues": ("gitlab", "issues.json"),
}
CHATS = ("slack", "discord")
DEFAULT = "onnx:"
MODELS = {DEFAULT: "all-MiniLM-L6-v2 (default)", MULTILINGUAL: "universal sentence encoder, multilingual"}
STRUCTURE, FIXED = "by structure", "fixed size"  # ways to chunk
CAPACITY = 254
FOUND = 5  # recall@5
DEPTH = 10  # MRR counts the first ten
CACHE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A chunk: what is sent, and the ids of the messages, or of the issue, that it has something of."""

    sent: str
    ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the ids of what answers it."""

    text: str
    answers: frozenset[str]


def read_questions(path: Path = QUESTIONS) -> dict[str, list[Question]]:
    """Return the questions by source."""
    found: dict[str, list[Question]] = {name: [] for name in SOURCES}
    with path.open(encoding="utf-8", newline="") as file:
        for source, answers, text in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            found[source].append(Question(text=text, answers=frozenset(answers.split())))
    return found


def measure(options: Options) -> dict[str, Any]:
    """Chunk each source in both ways, and rank all chunks of a source for each of its questions."""
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> dict[str, Any]:
    questions, held_out = read_questions(), read_questions(HELD_OUT)
    documents = {name: await read_documents(options.data, name) for name in SOURCES}
    ranks: dict[str, dict[str, list[int]]] = {}
    pieces: dict[str, dict[str, int]] = {}
    japanese: dict[str, list[int]] = {}
    tried: dict[str, dict[str, dict[str, list[int]]]] = {"chats": {}, "issues": {}}
    for spec in MODELS:
        # Kept between runs: the texts take minutes to embed.
        vectors = VectorFile(BENCH / "questions" / "vectors.db", limit=CACHE_BYTES, clock=time.time)
        model = Cached(open_embedder(spec, cache=BENCH / "questions", options={}), [vectors])
        japanese[spec] = await _japanese(model)
        for name, some in documents.items() if spec == DEFAULT else ():
            ways = {STRUCTURE: [*_by_structure(name, some, model)], FIXED: [*_fixed(some, model)]}
            ranks[name] = {way: await _ranks(questions[name], found, model) for way, found in ways.items()}
            pieces[name] = {way: len(found) for way, found in ways.items()}
            for way, found in {**ways, **_tried(name, some, model)}.items():
                kind = "chats" if name in CHATS else "issues"
                both = tried[kind].setdefault(way, {"first": [], "held out": [], "pieces": []})
                both["first"] += await _ranks(questions[name], found, model)
                both["held out"] += await _ranks(held_out[name], found, model)
                both["pieces"].append(len(found))
        await model.aclose()
    return {
        "questions": {name: len(some) for name, some in questions.items()},
        "pieces": pieces,
        "ranks": ranks,
        "japanese": japanese,
        "tried": tried,
        "held_out": {name: len(some) for name, some in held_out.items()},
    }


async def read_documents(data: Path, name: str) -> list[Document]:
    """Read a source as a run does."""
    kind, location = SOURCES[name]
    source = open_source(kind, location, folder=data, options={}, clock=lambda: 0)
    return [entry.read() async for page in source.fetch("") for entry in page.entries]


def _by_structure(name: str, documents: Sequence[Document], model: Cached) -> Iterator[Piece]:
    """Chunk documents as a run does."""
    rules = Rules(source=name, collections=(name,), capacity=CAPACITY)
    for document in documents:
        for each in chunk_as_read(document, rules, model.read):
            ids = str(each.metadata["messages"]).split() if name in CHATS else [document.id]
            yield Piece(sent=each.sent, ids=frozenset(ids))


def _tried(name: str, documents: Sequence[Document], model: Cached) -> dict[str, list[Piece]]:
    """Cut chats or issues in the other ways."""
    if name not in CHATS:
        return {
            way: [
                *_by_structure(
                    name, [changed(each, pieces, CAPACITY, model.count) for each in documents], model
                )
            ]
            for way, pieces in PIECES_TRIED.items()
        }
    return {
        way: [
            Piece(sent=sent, ids=ids)
            for document in documents
            for sent, ids in cut(document, windows, CAPACITY, model.count)
        ]
        for way, windows in TRIED.items()
    }


def _fixed(documents: Sequence[Document], model: Cached) -> Iterator[Piece]:
    """Cut the text of each document every CAPACITY tokens, between words, wherever that is."""
    sizes: dict[str, int] = {}

    def size(word: str) -> int:
        if word not in sizes:
            sizes[word] = model.count(word)
        return sizes[word]

    for document in documents:
        lines = [*lines_of(document)]
        words = [(word, owner) for line, owner in lines for word in [*line.split(" "), "\n"]]
        for first, last in _filled([size(word) for word, _ in words]):
            text = " ".join(word for word, _ in words[first:last]).replace(" \n ", "\n").strip()
            if text:
                yield Piece(sent=text, ids=frozenset(owner for _, owner in words[first:last]))


def lines_of(document: Document) -> Iterator[tuple[str, str]]:
    """Yield the text of a document line by line, with the id of what each is part of."""
    if document.kind == "conversation":
        for message in Conversation.from_json(document.text).messages:
            yield f"{message.author}: {message.text}", message.id
        return
    issue = Issue.from_json(document.text)
    yield document.title, document.id
    yield issue.description, document.id
    for note in issue.notes:
        yield f"{note.author}: {note.body}", document.id


def _filled(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first word of each piece, and the first one after it."""
    first = tokens = 0
    for place, size in enumerate(sizes):
        if tokens + size > CAPACITY and place > first:
            yield first, place
            first, tokens = place, 0
        tokens += size
    if first < len(sizes):
        yield first, len(sizes)


async def _ranks(questions: Sequence[Question], pieces: Sequence[Piece], model: Cached) -> list[int]:
    """Return for each question how many chunks are ranked before the first one with an answer."""
    texts = list(dict.fromkeys(each.sent for each in pieces))
    vectors = await _embedded(texts, model)
    places = {text: place for place, text in enumerate(texts)}
    rows = vectors[[places[each.sent] for each in pieces]]
    asked = (await model.embed([each.text for each in questions], purpose="query")).vectors
    ranks = []
    for question, scores in zip(questions, asked @ rows.T, strict=True):
        right = [place for place, each in enumerate(pieces) if each.ids & question.answers]
        if not right:
            raise LookupError(f"no chunk holds an answer to {question.text!r}")
        ranks.append(int((scores > scores[right].max()).sum()))
    return ranks


async def _embedded(texts: Sequence[str], model: Cached) -> NDArray[np.float32]:
    ends = [*accumulate(len(part) for part in _parts(texts))]
    found = [
        (await model.embed(texts[end - len(part) : end], purpose="document")).vectors
        for part, end in zip(_parts(texts), ends, strict=True)
    ]
    return np.concatenate(found)


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + 256] for start in range(0, len(texts), 256)]


async def _japanese(model: Cached) -> list[int]:
    rows = [line.split("\t") for line in JAPANESE.read_text("utf-8").splitlines()]
    pieces = [
        Piece(sent=model.read(text).sent, ids=frozenset([str(at)])) for at, (text, _) in enumerate(rows)
    ]
    questions = [
        Question(text=model.read(text).sent, answers=frozenset([str(at)]))
        for at, (_, text) in enumerate(rows)
    ]
    return await _ranks(questions, pieces, model)


def recall(ranks: Sequence[int], within: int = FOUND) -> float:
    """Return the share of questions with an answer among the first chunks."""
    return sum(rank < within for rank in ranks) / len(ranks)


def reciprocal(ranks: Sequence[int]) -> float:
    """Return the mean of 1 by the place of the first answer, 0 where it is not among the first ten."""
    return sum(1 / (rank + 1) for rank in ranks if rank < DEPTH) / len(ranks)


def _joined(ranks: Mapping[str, Mapping[str, Sequence[int]]], names: Sequence[str], way: str) -> list[int]:
    return [rank for name in names for rank in ranks[name][way]]


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the ways to chunk, with the default model, and count Japanese questions with the multilingual one."""
    ranks = found["ranks"]
    compared = [
        Figure(
            what=f"recall@5 of questions on {what} against fixed sizes",
            value=100 * (recall(_joined(ranks, names, STRUCTURE)) - recall(_joined(ranks, names, FIXED))),
            target=5,
            form="{:.1f} points",
        )
        for what, names in (("chats: windows", CHATS), ("issues: by structure", ("issues",)))
    ]
    among = Figure(
        what="Japanese questions that find their text among five, of 40: multilingual model",
        value=sum(rank < FOUND for rank in found["japanese"][MULTILINGUAL]),
        target=36,
        form="{:.0f}",
    )
    return [*compared, among]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    slack, discord, issues = (found["questions"][name] for name in SOURCES)
    rows: list[list[object]] = []
    for what, names in (("chats", CHATS), ("issues", ("issues",))):
        for way in (STRUCTURE, FIXED):
            some = _joined(found["ranks"], names, way)
            rows.append(
                [
                    f"{what}, {way}",
                    *(f"{recall(some, within):.1%}" for within in (1, FOUND, DEPTH)),
                    f"{reciprocal(some):.3f}",
                ]
            )
    held_out = found["held_out"]
    others = held_out["slack"] + held_out["discord"]
    first = [
        [model, *(sum(rank < within for rank in found["japanese"][spec]) for within in (1, FOUND))]
        for spec, model in MODELS.items()
    ]
    made = ", ".join(
        f"{name} {some[STRUCTURE]:,} or {some[FIXED]:,}" for name, some in found["pieces"].items()
    )
    return f"""## Questions

{slack} questions on 2,800 messages of a Slack channel, {discord} on 2,600 of a Discord channel and {issues} on 821
issues with their notes, as someone asks who has the problem and does not know the words of the answer. A chunk is right
if it has something of a message that answers, or of the issue. Fixed sizes cut each day of a channel, or each issue,
every {CAPACITY} tokens; neither way sends more. Chunks by structure, or of fixed sizes: {made}.

{table(["chunks", "recall@1", "recall@5", "recall@10", "MRR@10"], rows)}

Windows of chats end at silences, so they are shorter than pieces of a fixed size: five of them show a reader less text.
Other windows of the same capacity, on these questions and on {others} others that were written before any of
them was tried. Windows that are filled in order move with every message before them, so a new one would embed the rest
of its day again:

{_compared("windows", found["tried"]["chats"])}

Other pieces of issues, on the {issues} questions and on {held_out["issues"]} others that were written before any of
them was tried. Where notes are joined, a changed one would embed others too, and a hit would not open the note that
answers:

{_compared("pieces", found["tried"]["issues"])}

40 Japanese questions on 40 short Japanese texts, in other words than theirs:

{table(["model", "found first", "among five"], first)}
"""


def _compared(what: str, tried: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[list[object]] = [
        [
            way,
            f"{sum(some['pieces']):,}",
            *(
                form.format(measure(some[asked]))
                for asked in ("first", "held out")
                for measure, form in ((recall, "{:.1%}"), (reciprocal, "{:.3f}"))
            ),
        ]
        for way, some in tried.items()
    ]
    return table([what, "chunks", "recall@5", "MRR@10", "recall@5, held out", "MRR@10, held out"], rows)
