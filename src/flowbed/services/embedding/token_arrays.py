"""Token arrays, as LangChain sends them: decoded to texts, or refused where the text is in doubt."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from flowbed.embedding.token_cuts import is_part
from flowbed.embedding.tokens import Bpe, Decodes
from flowbed.errors import Rejected
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.records.serving import TokenArrays


# LangChain splits arrays of more than 8,191 tokens wherever that falls: within a character, and sometimes (once in
# 5,000 splits) where the part alone would be written differently. A difference further inside means another tokenizer's
# ids; an array shorter than this was hardly split, so it must match exactly where it does not end within a character.
LONG = 64


class TokenArrayReader:
    """Decodes token arrays as ids of cl100k, which OpenAI's API accepts for each of its models, or as the model's own.

    Ids do not identify their tokenizer, so the operator chooses one for all requests; an array is refused if that
    tokenizer cannot have made it from a text.
    """

    def __init__(self, whose: TokenArrays) -> None:
        """Decode ids of the tokenizer `whose`."""
        self._whose = whose

    def texts(self, arrays: Sequence[Sequence[int]], embedder: Embedder) -> list[str]:
        """Decode each array to its text, without part of a character at either end.

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
        cut = self._cl100k.decode_cut(array)
        split = len(array) >= LONG
        written = self._cl100k.encode(cut.text)
        if list(array) != written and not is_part(
            array, written, start=cut.start or split, end=cut.end or split
        ):
            raise Rejected(
                f"cl100k encodes the text of {count(len(array), 'token')} differently, so they may be another"
                " tokenizer's; send the text itself"
            )
        return cut.text

    @cached_property
    def _cl100k(self) -> Bpe:
        """Load OpenAI's tokenizer on first use, which takes some 30 ms."""
        return Bpe("cl100k_base")
