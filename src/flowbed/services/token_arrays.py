"""Token arrays, as LangChain sends them: the texts that they stand for, or a refusal where that is in doubt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from flowbed.embedding.tokens import Bpe, Decodes
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.records.serving import TokenArrays as Whose


# Tokens at either end of a long array that may be others than the tokenizer writes for its text: LangChain cuts arrays
# of more than 8,191, and what it cuts in two is now and then (once in 5,000 cuts) written otherwise alone. Further
# inside only ids that are another tokenizer's differ; an array that is not long was hardly cut, and has to agree.
EDGE, LONG = 4, 64


class TokenArrays:
    """Reads token arrays: as ids of cl100k, which OpenAI's API takes for each of its models, or as the model's own.

    Ids do not say whose they are, so the operator does, for all requests; an array is refused where it cannot have been
    made from a text by that tokenizer.
    """

    def __init__(self, whose: Whose) -> None:
        """Say whose ids requests send."""
        self._whose = whose

    def texts(self, arrays: Sequence[Sequence[int]], embedder: Embedder) -> list[str]:
        """Read the text that each array stands for.

        Raises:
            Rejected: an array has an id that stands for no text, is not valid Unicode, or is not how the tokenizer
                writes the text that it stands for; `inputs` says which array.
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
                f"token arrays are not taken for {embedder.space.model}, whose tokenizer is not here; send the text",
                param="input",
            )
        return embedder.decode

    def _of_cl100k(self, array: Sequence[int]) -> str:
        text = self._cl100k.decode(array)
        if not _agree(list(array), self._cl100k.encode(text)):
            raise Rejected(
                f"these {len(array)} tokens are not how cl100k writes the text that they stand for, so they may be"
                " another tokenizer's; send the text itself"
            )
        return text

    @cached_property
    def _cl100k(self) -> Bpe:
        """Load OpenAI's tokenizer when the first array comes, which takes some 30 ms."""
        return Bpe("cl100k_base")


def _agree(array: list[int], written: list[int]) -> bool:
    """Tell whether an array is what was written, or a part of more where it is long."""
    if array == written or len(array) < LONG:
        return array == written
    inside = array[EDGE:-EDGE]
    return any(written[shift : shift + len(inside)] == inside for shift in range(2 * EDGE + 1))
