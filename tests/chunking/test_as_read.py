"""Documents whose words the model does not know: chunks are sent with breaks, and keep their text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from flowbed.chunking import Rules, chunk, chunk_as_read
from flowbed.embedding.local.onnx import open_onnx
from flowbed.records import Document

if TYPE_CHECKING:
    from flowbed.embedding.local.onnx import Onnx

RULES = Rules(source="s", collections=("s",))
KANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Onnx:
    return open_onnx("", cache=tmp_path_factory.mktemp("cache"), options={})


@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_chunk_as_read_unbroken_kana_become_chunks_that_fit(model: Onnx, kind: str) -> None:
    """Kana without a space were one chunk of one token, whatever they said."""
    text = "".join(random.Random(3).choice(KANA) for _ in range(4_000))
    document = Document(id="d", kind=kind, text=text)
    assert [each.tokens for each in chunk(document, RULES, model.count)] == [1]
    chunks = chunk_as_read(document, RULES, model.read)
    assert len(chunks) > 10
    assert all(each.tokens == model.count(each.sent) <= RULES.capacity for each in chunks)
    assert sum(each.lost for each in chunks) < len(text) * 0.05
    assert "".join(each.text for each in chunks) == text
    places = [(int(each.metadata["start"]), int(each.metadata["end"])) for each in chunks]
    assert [text[start:end] for start, end in places] == [each.text for each in chunks]
    assert any(" " in each.sent for each in chunks)


def test_chunk_as_read_known_words_are_the_chunks_they_were(model: Onnx) -> None:
    """A text that loses nothing has the same hashes as before, so that it is not embedded again."""
    text = "\n\n".join(f"Paragraph {number} says how to rotate the keys of a server." for number in range(60))
    document = Document(id="d", kind="markdown", text=text, title="Keys")
    assert chunk_as_read(document, RULES, model.read) == chunk(document, RULES, model.count)
