"""Modes of search: by vector, by text and hybrid, on Cranfield and on the questions about chats and issues."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

import flowbed
from benchmarks import retrieval
from benchmarks.process import BENCH
from benchmarks.questions import (
    CACHE_BYTES,
    CAPACITY,
    CHATS,
    DEFAULT,
    JAPANESE,
    MODELS,
    SOURCES,
    read_documents,
    read_questions,
)
from benchmarks.results import Figure, table
from flowbed.chunking import Rules, chunk_as_read
from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.disk import VectorFile
from flowbed.index.search import Mode
from flowbed.records.precomputed import PrecomputedRows
from flowbed.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.results import Options
    from flowbed.records import Document

GAIN = 2.0  # points of nDCG@10 that would make hybrid the default
PART = 256  # texts embedded at a time
NAMES = {
    "cranfield": "Cranfield",
    "slack": "chat, Slack",
    "discord": "chat, Discord",
    "issues": "issues",
    "japanese": "Japanese",
}


@dataclass(kw_only=True)
class Asked:
    """Chunks with the document of each, what is sent of them, and questions with the grades of documents."""

    texts: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    questions: dict[str, Mapping[str, int]] = field(default_factory=dict)


def measure(options: Options) -> dict[str, Any]:
    """Write the chunks of each set into a collection, and ask its questions in each mode."""
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    sizes: dict[str, list[int]] = {}
    for spec in MODELS:
        vectors = VectorFile(BENCH / "questions" / "vectors.db", limit=CACHE_BYTES, clock=time.time)
        model = Cached(open_embedder(spec, cache=BENCH / "questions", options={}), [vectors])
        sets = {"japanese": _japanese(model)}
        if spec == DEFAULT:
            sets |= {"cranfield": await _cranfield(options.data, model)}
            sets |= {name: await _about(name, options.data, model) for name in SOURCES}
        folder = options.work / str(list(MODELS).index(spec))
        folder.mkdir()
        (folder / "flowbed.toml").write_text(f'model = "{spec}"\n')
        for name, asked in sets.items():
            label = name if spec == DEFAULT else f"{name}, {MODELS[spec]}"
            found[label] = await _asked(folder, name, asked, model)
            sizes[label] = [len(asked.texts), len(asked.questions)]
        await model.aclose()
    return {"ndcg": found, "sizes": sizes}


async def _asked(folder: Path, name: str, asked: Asked, model: Cached) -> dict[str, float]:
    """Return the mean nDCG@10 of each mode; a document counts once, by its best chunk."""
    rows = await _embedded(asked.sent, model, purpose="document")
    queries = await _embedded([model.read(text).sent for text in asked.questions], model, purpose="query")
    scores: dict[str, list[float]] = {mode: [] for mode in get_args(Mode)}
    async with flowbed.aopen(folder) as bed:
        written = PrecomputedRows(
            ids=[f"{name}#{place}" for place in range(len(rows))],
            vectors=rows,
            texts=asked.texts,
            metadata=[{"source": name, "document": document} for document in asked.documents],
        )
        await bed.write_rows(name, written, strict=True)
        for (text, grades), vector in zip(asked.questions.items(), queries, strict=True):
            for mode in get_args(Mode):
                hits = await bed.search(
                    text if mode == "text" else vector.tolist(),
                    collection=name,
                    limit=retrieval.DEPTH,
                    unit="document",
                    mode=mode,
                    text=text,
                )
                scores[mode].append(retrieval.ndcg([str(hit.metadata["document"]) for hit in hits], grades))
    return {mode: float(np.mean(some)) for mode, some in scores.items()}


async def _embedded(texts: Sequence[str], model: Cached, *, purpose: Any) -> Any:
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    return np.concatenate([(await model.embed(part, purpose=purpose)).vectors for part in parts])


async def _cranfield(data: Path, model: Cached) -> Asked:
    judged = retrieval.read_judged(data / "retrieval")
    corpus = data / "retrieval" / "corpus.jsonl"
    source = open_source("jsonl", str(corpus), folder=data, options={}, clock=lambda: 0)
    documents = [entry.read() async for page in source.fetch("") for entry in page.entries]
    asked = Asked(questions={text: judged.grades[query] for query, text in judged.queries.items()})
    for document in documents:
        _add(asked, document, "corpus", model)
    return asked


async def _about(name: str, data: Path, model: Cached) -> Asked:
    """Return a chat or tracker; each chunk counts by itself, and is right if it has something of an answer."""
    asked, ids = Asked(), list[frozenset[str]]()
    for document in await read_documents(data, name):
        for metadata in _add(asked, document, name, model):
            ids.append(frozenset(str(metadata["messages"]).split() if name in CHATS else [document.id]))
    asked.documents = [str(place) for place in range(len(ids))]
    for question in read_questions()[name]:
        right = {str(place): 1 for place, each in enumerate(ids) if each & question.answers}
        asked.questions[question.text] = right
    return asked


def _japanese(model: Cached) -> Asked:
    rows = [line.split("\t") for line in JAPANESE.read_text("utf-8").splitlines()]
    return Asked(
        texts=[text for text, _ in rows],
        sent=[model.read(text).sent for text, _ in rows],
        documents=[str(place) for place in range(len(rows))],
        questions={question: {str(place): 1} for place, (_, question) in enumerate(rows)},
    )


def _add(asked: Asked, document: Document, name: str, model: Cached) -> list[Mapping[str, Any]]:
    """Add the chunks of a document as a run makes them, and return their metadata."""
    rules = Rules(source=name, collections=(name,), capacity=CAPACITY)
    chunks = list(chunk_as_read(document, rules, model.read))
    asked.texts += [chunk.text for chunk in chunks]
    asked.sent += [chunk.sent for chunk in chunks]
    asked.documents += [str(document.id)] * len(chunks)
    return [chunk.metadata for chunk in chunks]


def _average(found: Mapping[str, Mapping[str, float]], mode: str) -> float:
    return 100 * float(np.mean([scores[mode] for scores in found.values()]))


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare hybrid with vectors alone."""
    return [
        Figure(
            what="nDCG@10 of hybrid search against vectors alone, average of six sets; decides the default",
            value=_average(found["ndcg"], "hybrid") - _average(found["ndcg"], "vector"),
            target=GAIN,
            form="{:.1f} points",
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    modes = get_args(Mode)
    rows: list[list[object]] = []
    for label, scores in found["ndcg"].items():
        name, _, model = label.partition(", ")
        chunks, questions = found["sizes"][label]
        what = NAMES[name] + (f", {model}" if model else "")
        rows.append([what, f"{chunks:,}", questions, *(f"{100 * scores[mode]:.1f}" for mode in modes)])
    averages = [f"**{_average(found['ndcg'], mode):.1f}**" for mode in modes]
    rows.append(["**average**", "", "", *averages])
    return f"""## Modes of search

nDCG@10 in points, of [searches](search.md) by vector, by text (BM25) and hybrid, with the default model unless another
is named. On Cranfield a document counts by its best chunk, and the grade is the gain. A chunk of a chat or an issue is
right if it has something of what answers. The questions are those below: they were written in other words than the
answers, which is hard for a search by text. Hybrid becomes the default if it finds {GAIN:.0f} points more than vectors
on the average ([decision 44](decisions/0044-hybrid-is-not-the-default.md)).

{table(["set", "chunks", "questions", *modes], rows)}
"""
