"""Token arrays, as LangChain sends them: decoded to texts, or refused where the text is in doubt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from flowbed.embedding.tokens import Bpe, Decodes
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.records.serving import TokenArrays


# Tokens at either end of a long array that may differ from how the tokenizer writes the text: LangChain splits arrays
# of more than 8,191, and a split part is sometimes (once in 5,000 splits) written differently alone. A difference
# further inside means another tokenizer's ids; a short array was hardly split, so it must match exactly.
EDGE, LONG = 4, 64


class TokenArrayReader:
    """Decodes token arrays as ids of cl100k, which OpenAI's API accepts for each of its models, or as the model's own.

    Ids do not identify their tokenizer, so the operator chooses one for all requests; an array is refused if that
    tokenizer cannot have made it from a text.
    """

    def __init__(self, whose: TokenArrays) -> None:
        """Decode ids of the tokenizer `whose`."""
        self._whose = whose

    def texts(self, arrays: Sequence[Sequence[int]], embedder: Embedder) -> list[str]:
        """Decode each array to its text.

        Raises:
            Rejected: an array has an unknown id, is not valid Unicode, or is not how the tokenizer writes its text;
                `inputs` says which array.
        """
        decode = self._decode(embedder)
        texts = []
        for place, array in enumerate(arrays):
            try:
                texts.append(decode(array))
            except Rejected as error:
                raise Rejected(
                    f"'input[{place}]' is invalid: {error}", inputs=(place,), param="input"
                ) from error
        return texts

    def _decode(self, embedder: Embedder) -> Callable[[Sequence[int]], str]:
        if self._whose == "cl100k":
            return self._of_cl100k
        if not isinstance(embedder, Decodes):
            raise Rejected(
                f"token arrays are not supported for {embedder.space.model}, which has no local tokenizer; send text",
                param="input",
            )
        return embedder.decode

    def _of_cl100k(self, array: Sequence[int]) -> str:
        text = self._cl100k.decode(array)
        if not _agree(list(array), self._cl100k.encode(text)):
            raise Rejected(
                f"these {len(array)} tokens are not how cl100k encodes their text, so they may be another tokenizer's;"
                " send the text itself"
            )
        return text

    @cached_property
    def _cl100k(self) -> Bpe:
        """Load OpenAI's tokenizer on first use, which takes some 30 ms."""
        return Bpe("cl100k_base")


def _agree(array: list[int], written: list[int]) -> bool:
    """Tell whether an array equals the tokenizer's output, or, if long, is a part of it."""
    if array == written or len(array) < LONG:
        return array == written
    inside = array[EDGE:-EDGE]
    return any(written[shift : shift + len(inside)] == inside for shift in range(2 * EDGE + 1))
