"""The local model: its vectors, its window, and unusual texts."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from flowbed.embedding import open_embedder
from flowbed.embedding.local.onnx import open_onnx
from flowbed.embedding.local.priority import LOWEST_PRIORITY, background
from flowbed.embedding.local.weights import find_checkpoint
from flowbed.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.embedding.local.batching import Batch
    from flowbed.embedding.local.onnx import Onnx

TEXTS = [
    "",
    " ",
    "TOTAL RM 7.80",
    "How do we rotate the signing keys of the release server?",
    "Юнит-тесты падают на новой машине",
    "埋め込みの索引をデータと同期させる",
    "مرحبا بالعالم 🌍 héllo",
    "word " * 90,
]


erf = np.vectorize(math.erf, otypes=[np.float64])


def reference(
    folder: Path, texts: Sequence[str], *, pooling: str = "mean", first_position: int = 0
) -> NDArray[np.float64]:
    """Embed texts one by one with a plain, slow BERT in float64."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {
        name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    heads = config["num_attention_heads"]

    def dense(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"])

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + config["layer_norm_eps"])
        scaled = (x - x.mean(axis=-1, keepdims=True)) / spread
        return np.asarray(scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"])

    def embed(ids: Sequence[int]) -> NDArray[np.float64]:
        hidden = norm(
            tensors["embeddings.word_embeddings.weight"][ids]
            + tensors["embeddings.position_embeddings.weight"][first_position : first_position + len(ids)]
            + tensors["embeddings.token_type_embeddings.weight"][0],
            "embeddings.LayerNorm",
        )
        for layer in range(config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            query, key, value = (
                dense(hidden, f"{name}.attention.self.{part}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
                for part in ("query", "key", "value")
            )
            scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed = (weights @ value).transpose(1, 0, 2).reshape(len(ids), -1)
            hidden = norm(
                dense(mixed, f"{name}.attention.output.dense") + hidden, f"{name}.attention.output.LayerNorm"
            )
            inner = dense(hidden, f"{name}.intermediate.dense")
            inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
            hidden = norm(dense(inner, f"{name}.output.dense") + hidden, f"{name}.output.LayerNorm")
        pooled = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
        return np.asarray(pooled / np.linalg.norm(pooled))

    return np.array([embed(tokenizer.encode(text).ids) for text in texts])


async def vectors(model: Onnx, texts: Sequence[str]) -> NDArray[np.float32]:
    return (await model.embed(texts, purpose="document")).vectors


async def test_onnx_default_model_agrees_with_a_reference(default_model: Onnx, graphs: Path) -> None:
    """To 1e-4, with a reference computed in float64."""
    folder = find_checkpoint("", cache=graphs, download=False).folder
    expected = reference(folder, TEXTS)
    assert np.abs(await vectors(default_model, TEXTS) - expected).max() < 1e-4


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(("family", "first"), [("bert", 0), ("xlm-roberta", 2)])
async def test_onnx_each_family_and_pooling_agrees_with_a_reference(
    tiny: Callable[..., Path], tmp_path: Path, pooling: str, family: str, first: int
) -> None:
    folder = tiny(pooling=pooling, model_type=family)
    model = open_onnx(str(folder), cache=tmp_path / "cache", options={})
    texts = ["a", "hello there", "abc def ghi", ""]
    expected = reference(folder, texts, pooling=pooling, first_position=first)
    assert np.abs(await vectors(model, texts) - expected).max() < 1e-5
    assert model.space.pooling == f"{pooling}+split"


async def test_onnx_vector_does_not_depend_on_its_batch(default_model: Onnx, data: Path) -> None:
    """The same to 1e-5 alone and among dozens of texts of other lengths."""
    corpus = [
        json.loads(line)["text"] for line in (data / "retrieval" / "corpus.jsonl").read_text().splitlines()
    ]
    texts = [*TEXTS, *corpus[:15], *(text[:40] for text in corpus[:50])]
    together = await vectors(default_model, texts)
    for place in (*range(len(TEXTS)), 12, 20, 40, 70):
        alone = await vectors(default_model, [texts[place]])
        assert np.abs(alone[0] - together[place]).max() < 1e-5


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), min_size=1, max_size=8)
)
def test_onnx_any_unicode_text_has_a_unit_vector(default_model: Onnx, texts: list[str]) -> None:
    """The same alone and in a batch."""

    async def check() -> None:
        together = await vectors(default_model, texts)
        assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
        alone = np.concatenate([await vectors(default_model, [text]) for text in texts])
        assert np.abs(alone - together).max() < 1e-5

    asyncio.run(check())


async def test_onnx_keeps_the_order_of_texts(default_model: Onnx) -> None:
    texts = ["one two three four five six seven", "one", "one two three"]
    forward = await vectors(default_model, texts)
    backward = await vectors(default_model, texts[::-1])
    assert np.abs(forward - backward[::-1]).max() < 1e-5


async def test_onnx_lone_surrogates_are_rejected_by_position(default_model: Onnx) -> None:
    with pytest.raises(Rejected) as refused:
        await default_model.embed(["fine", "bad \ud800", "fine", "\udfff"], purpose="document")
    assert refused.value.inputs == (1, 3)
    with pytest.raises(Rejected):
        default_model.count("\ud800")


async def test_onnx_no_texts_returns_an_empty_array(default_model: Onnx) -> None:
    embedded = await default_model.embed([], purpose="query")
    assert embedded.vectors.shape == (0, 384)


async def test_onnx_counts_tokens_without_special_ones(default_model: Onnx) -> None:
    embedded = await default_model.embed(TEXTS, purpose="document")
    assert embedded.tokens == sum(default_model.count(text) for text in TEXTS)
    assert default_model.count("") == 0
    assert default_model.count("word " * 1000) == 1000


async def test_onnx_split_averages_the_windows_of_a_long_text(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Weighted by their tokens."""
    folder = tiny()
    model = open_onnx(str(folder), cache=tmp_path / "cache", options={})
    # One token more than two windows: of 24 positions two are special tokens.
    words = ["abcdefghijklmnopqrstuvwxyz"[place % 26] for place in range(45)]
    embedded = await model.embed([" ".join(words), "a b"], purpose="document")
    bounds = [len(words) * part // 3 for part in range(4)]
    parts = [" ".join(words[start:end]) for start, end in itertools.pairwise(bounds)]
    weights = np.diff(bounds)
    mean = (reference(folder, parts) * weights[:, None]).sum(axis=0)
    assert np.abs(embedded.vectors[0] - mean / np.linalg.norm(mean)).max() < 1e-5
    assert np.abs(embedded.vectors[1] - reference(folder, ["a b"])[0]).max() < 1e-5
    assert embedded.truncated == ()
    assert embedded.tokens == len(words) + 2


async def test_onnx_truncate_marks_a_long_text(graphs: Path) -> None:
    """It embeds and counts only the first window."""
    model = open_onnx("", cache=graphs, options={"overflow": "truncate"})
    embedded = await model.embed(["short", "word " * 300, "word " * 254], purpose="document")
    assert embedded.truncated == (1,)
    assert embedded.tokens == 1 + 254 + 254
    assert np.abs(embedded.vectors[1] - embedded.vectors[2]).max() < 1e-5


async def test_onnx_reject_refuses_a_long_text_by_position(graphs: Path) -> None:
    model = open_onnx("", cache=graphs, options={"overflow": "reject"})
    with pytest.raises(Rejected, match="254 tokens") as refused:
        await model.embed(["word " * 255, "short", "word " * 254], purpose="document")
    assert refused.value.inputs == (0,)
    assert (await vectors(model, ["word " * 254])).shape == (1, 384)


def test_onnx_split_and_truncate_are_two_spaces(graphs: Path) -> None:
    spaces = {
        overflow: open_onnx("", cache=graphs, options={"overflow": overflow}).space
        for overflow in ("split", "truncate", "reject")
    }
    assert spaces["truncate"] == spaces["reject"]
    assert spaces["split"].fingerprint != spaces["reject"].fingerprint
    assert spaces["split"].model == "sentence-transformers/all-MiniLM-L6-v2"
    assert spaces["split"].dimensions == 384


async def test_onnx_megabyte_of_text_is_embedded(graphs: Path) -> None:
    model = open_onnx("", cache=graphs, options={"overflow": "truncate"})
    embedded = await model.embed(["lorem ipsum " * 87_000, "x" * 1_000_000], purpose="document")
    assert np.isfinite(embedded.vectors).all()
    assert embedded.truncated == (0,)


async def test_onnx_embedding_does_not_block_the_event_loop(default_model: Onnx) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    try:
        await vectors(default_model, ["word " * 200] * 20)
    finally:
        ticking.cancel()
    assert len(gaps) > 3


async def test_onnx_concurrent_calls_return_the_same_vectors(default_model: Onnx) -> None:
    def threads() -> int:
        return sum("flowbed-onnx" in thread.name for thread in threading.enumerate())

    of_other_models = threads()
    alone = await vectors(default_model, TEXTS)
    together = await asyncio.gather(*(vectors(default_model, TEXTS) for _ in range(6)))
    for answer in together:
        assert np.abs(answer - alone).max() < 1e-5
    assert threads() - of_other_models <= 6


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no rank of their own")
async def test_onnx_background_work_runs_at_the_lowest_priority(
    default_model: Onnx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returns the same vectors; interactive calls keep the normal priority."""
    ranks: list[int] = []
    run = default_model._run

    def watched(batch: Batch) -> NDArray[np.float32]:
        ranks.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return run(batch)

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(default_model, "_run", watched)
    awaited = await vectors(default_model, TEXTS)
    assert set(ranks) == {usual}
    ranks.clear()
    with background():
        aside = await vectors(default_model, TEXTS)
    assert set(ranks) == {LOWEST_PRIORITY}
    assert np.abs(aside - awaited).max() < 1e-5
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == usual


async def test_onnx_cancelled_call_stops_after_its_batch(default_model: Onnx) -> None:
    call = asyncio.create_task(vectors(default_model, ["word " * 200] * 100))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await vectors(default_model, ["next"])).shape == (1, 384)


async def test_onnx_prompts_are_added_by_purpose(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """The model's or the user's; they are part of the space."""
    folder = tiny()
    plain = open_onnx(str(folder), cache=tmp_path / "cache", options={})
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "ask ", "passage": ""}})
    )
    model = open_onnx(str(folder), cache=tmp_path / "cache", options={"document_prompt": "doc "})
    assert model.space.prompts == (("document", "doc "), ("query", "ask "))
    assert model.space.fingerprint != plain.space.fingerprint
    asked = await model.embed(["me"], purpose="query")
    assert np.abs(asked.vectors - await vectors(plain, ["ask me"])).max() < 1e-6
    assert np.abs(await vectors(model, ["me"]) - await vectors(plain, ["doc me"])).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overflw": "split"}, "overflow"),
        ({"overflow": "wrap"}, "truncate"),
        ({"download": "yes"}, "true"),
        ({"threads": "0"}, "above 0"),
        ({"threads": "many"}, "above 0"),
    ],
)
def test_onnx_wrong_option_is_misconfigured(graphs: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        open_embedder("onnx:", cache=graphs, options=options)


def test_open_embedder_onnx_opens_the_default_model(graphs: Path) -> None:
    """For an empty name and for its own."""
    named: Any = open_embedder(
        "onnx:sentence-transformers/all-MiniLM-L6-v2", cache=graphs, options={"threads": "1"}
    )
    assert named.space == open_embedder("onnx:", cache=graphs, options={}).space
