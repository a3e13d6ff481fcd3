"""Models that the tests of embedding share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from flowbed.embedding.local.onnx import open_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.embedding.local.onnx import Onnx

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefgh")]
HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 16, 2, 4, 32, 24


@pytest.fixture(scope="session")
def default_model(graphs: Path) -> Onnx:
    """The default model, which must be installed."""
    return open_onnx("", cache=graphs, options={})


def write_model(folder: Path, *, pooling: str = "mean", seed: int = 0, **config: Any) -> Path:
    """Write a complete model, tiny and random, in the format of sentence-transformers."""
    chance = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return chance.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": random(len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": random(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": random(2, HIDDEN),
        "embeddings.LayerNorm.weight": 1 + random(HIDDEN),
        "embeddings.LayerNorm.bias": random(HIDDEN),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        shapes = {
            "attention.self.query": (HIDDEN, HIDDEN),
            "attention.self.key": (HIDDEN, HIDDEN),
            "attention.self.value": (HIDDEN, HIDDEN),
            "attention.output.dense": (HIDDEN, HIDDEN),
            "intermediate.dense": (INNER, HIDDEN),
            "output.dense": (HIDDEN, INNER),
        }
        for part, shape in shapes.items():
            tensors[f"{name}.{part}.weight"] = random(*shape)
            tensors[f"{name}.{part}.bias"] = random(shape[0])
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{name}.{part}.weight"] = 1 + random(HIDDEN)
            tensors[f"{name}.{part}.bias"] = random(HIDDEN)
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    described = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(described))
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("mean_tokens", "cls_token", "max_tokens")}
    modes[f"pooling_mode_{pooling}_{'token' if pooling == 'cls' else 'tokens'}"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=WORDS[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write tiny models into separate folders."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        return write_model(tmp_path / name, **changes)

    return write
