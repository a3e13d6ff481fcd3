"""Reranking, simulated: a text is as relevant as the share of the query's words that it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.testing.simulators.tokens import tokenizer
from flowbed.testing.simulators.wire import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from flowbed.testing.simulators.wire import Vectors, VendorError

WORD = re.compile(r"\w+")
MOST = 1_000  # texts


def relevance(query: str, text: str) -> float:
    """Return the score with which a simulator answers for a text: 0 to 1, less for a longer one with the same words."""
    asked = set(WORD.findall(query.lower()))
    words = WORD.findall(text.lower())
    share = len(asked & set(words)) / max(1, len(asked))
    return round(share * 0.9 + 0.1 / (1 + len(words)), 6)


def rerank_call(
    payload: dict[str, Any], models: Collection[str], fail: Callable[[int, str], VendorError]
) -> Call:
    """Read a request for reranking.

    Raises:
        VendorError: something is wrong with it, as `fail` words a status and a message.
    """
    model, query, texts = payload.get("model"), payload.get("query"), payload.get("documents")
    if not isinstance(model, str) or model not in models:
        raise fail(400, f"model {model} is not supported; supported models are {sorted(models)}")
    if not isinstance(query, str) or not query:
        raise fail(400, "query must be a string that is not empty")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise fail(400, "documents must be a list of strings that are not empty")
    if len(texts) > MOST:
        raise fail(400, f"documents may be at most {MOST}, and there are {len(texts)}")
    count = tokenizer().count
    tokens = sum(map(count, texts)) + len(texts) * count(query)
    return Call(
        model=model, texts=texts, tokens=tokens, form="rerank", input_type="rerank", dimensions=1, query=query
    )


def results_of(call: Call, vectors: Vectors) -> list[dict[str, Any]]:
    """Return {index, relevance_score} of each text, the best first; a vector that is not finite has no score."""
    finite = [bool(np.isfinite(row).all()) for row in vectors.rows]
    scored = [
        (relevance(call.query, call.texts[label]) if whole else None, label)
        for label, whole in zip(vectors.labels, finite, strict=True)
    ]
    scored.sort(key=lambda each: (-(each[0] or 0.0), each[1]))
    return [{"index": label, "relevance_score": score} for score, label in scored]
