"""Validation of inputs against the limits of OpenAI's API. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.records.serving import Input

# Limits of OpenAI's API: https://platform.openai.com/docs/api-reference/embeddings/create
ITEMS_MOST = 2_048
TOKENS_EACH = 8_192
TOKENS_MOST = 300_000

# No token of OpenAI's tokenizers has more characters. A text that is certainly too long is refused without tokenising
# it, which would block everything else in the process.
CHARACTERS_EACH = 128

# Bytes of a UTF-8 character at most; no tokenizer makes more than one token of a byte.
BYTES_EACH = 4

# Commas, and opening brackets and braces, in a body of JSON: parsing takes time and memory by what it makes, and
# nothing else runs meanwhile (3 s and 1 GB for 32 MB of empty lists). 300,000 tokens have a third of this, as ids or
# as text.
VALUES_MOST, CONTAINERS_MOST = 1_000_000, 400_000


def require_few_values(commas: int, openings: int) -> None:
    """Refuse JSON with this many commas, and opening brackets and braces, before it is parsed.

    Raises:
        Rejected: they are too many.
    """
    if commas > VALUES_MOST or openings > CONTAINERS_MOST:
        raise Rejected(
            f"The body of the request has too many values: at most {VALUES_MOST:,} commas and {CONTAINERS_MOST:,}"
            " opening brackets and braces are read; send fewer inputs in one request."
        )


def require_few(given: Sequence[Any]) -> None:
    """Refuse a list that is too long to be checked item by item.

    Raises:
        Rejected: it has too many texts, token arrays or tokens.
    """
    if given and type(given[0]) is int:
        require_sizes([len(given)])
        return
    if len(given) > ITEMS_MOST:
        raise Rejected(
            f"'input' has {len(given):,} items, at most {ITEMS_MOST:,} are allowed; send several requests",
            param="input",
            code="array_above_max_length",
        )
    require_sizes([len(each) for each in given if isinstance(each, list)])


def arrays_of(given: Input) -> list[list[int]] | None:
    """Return the token arrays of an input, or None if it consists of texts.

    Raises:
        Rejected: there are no arrays, too many, or an empty one.
    """
    if isinstance(given, str) or (given and isinstance(given[0], str)):
        return None
    require_few(given)
    arrays = [given] if given and isinstance(given[0], int) else given
    if not _are_arrays(arrays):
        raise Rejected("'input' must be a string, a list of strings, or token arrays", param="input")
    _require_some(arrays, "token array")
    return arrays


def texts_of(given: Input) -> list[str]:
    """Return the texts of an input without token arrays.

    Raises:
        Rejected: there are no texts, too many, or an empty one.
    """
    texts = [given] if isinstance(given, str) else given
    require_few(texts)
    if not _are_texts(texts):
        raise Rejected("'input' must be a string, a list of strings, or token arrays", param="input")
    _require_some(texts, "string")
    return texts


def most_tokens(text: str) -> int:
    """Return an upper bound of a text's tokens without tokenising it."""
    return len(text) if text.isascii() else len(text) * BYTES_EACH


def surely_within(most: Sequence[int]) -> bool:
    """Tell whether texts with these upper bounds are certainly within the limits, each and together."""
    return max(most) <= TOKENS_EACH and sum(most) <= TOKENS_MOST


def require_within(texts: Sequence[str], count: Callable[[str], int]) -> None:
    """Refuse texts that exceed the token limits, each or together.

    Raises:
        Rejected: one is too long, or all together are.
    """
    total = 0
    for place, text in enumerate(texts):
        if len(text) > TOKENS_EACH * CHARACTERS_EACH:
            raise Rejected(
                f"This model's maximum context length is {TOKENS_EACH} tokens, however input[{place}] has"
                f" {len(text):,} characters, which are more tokens. Please reduce your prompt.",
                inputs=(place,),
            )
        tokens = count(text)
        if tokens > TOKENS_EACH:
            raise too_long(place, tokens)
        total += tokens
        if total > TOKENS_MOST:  # the rest could take seconds
            raise too_many(total)


def require_sizes(sizes: Sequence[int]) -> int:
    """Refuse token arrays that exceed the limits, each or together; return their total.

    Raises:
        Rejected: one is too long, or all together are.
    """
    for place, size in enumerate(sizes):
        if size > TOKENS_EACH:
            raise too_long(place, size)
    if sum(sizes) > TOKENS_MOST:
        raise too_many(sum(sizes))
    return sum(sizes)


def too_long(place: int, tokens: int) -> Rejected:
    """Word the error for an input that is too long as OpenAI does."""
    return Rejected(
        f"This model's maximum context length is {TOKENS_EACH} tokens, however you requested {tokens} tokens"
        f" ({tokens} in your prompt; 0 for the completion; input[{place}]). Please reduce your prompt; or completion"
        " length.",
        inputs=(place,),
    )


def too_many(tokens: int) -> Rejected:
    """Word the error for inputs that are too long together as OpenAI does."""
    return Rejected(
        f"Requested {tokens} tokens, max {TOKENS_MOST} tokens per request", code="max_tokens_per_request"
    )


def _are_arrays(arrays: Input) -> TypeGuard[list[list[int]]]:
    return isinstance(arrays, list) and all(
        isinstance(array, list) and set(map(type, array)) <= {int} for array in arrays
    )


def _are_texts(texts: Input) -> TypeGuard[list[str]]:
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def _require_some(inputs: Sequence[str] | Sequence[list[int]], what: str) -> None:
    if not inputs:
        raise Rejected("'input' is an empty list; send at least one text", param="input")
    empty = [place for place, each in enumerate(inputs) if not each]
    if empty:
        raise Rejected(
            f"'$.input' is invalid: input[{empty[0]}] is an empty {what}; leave it out",
            inputs=empty,
            param="input",
        )
