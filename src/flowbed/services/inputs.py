"""What a request's input comes to: texts within the limits of OpenAI's API. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.records.serving import Input

# What OpenAI's API takes: https://platform.openai.com/docs/api-reference/embeddings/create
ITEMS_MOST = 2_048
TOKENS_EACH = 8_192
TOKENS_MOST = 300_000

# Characters that no token of OpenAI's tokenizers has more of. What cannot be short enough is not tokenised to find out,
# which nothing else in the process could happen beside.
CHARACTERS_EACH = 128

# Bytes that a character of UTF-8 has at most, and no tokenizer makes more than one token of a byte.
BYTES_EACH = 4


def require_few(given: Sequence[Any]) -> None:
    """Let a list through that is short enough to be looked at item by item, whatever its items are.

    Raises:
        Rejected: it holds too many texts, token arrays or tokens.
    """
    if given and type(given[0]) is int:
        require_sizes([len(given)])
        return
    if len(given) > ITEMS_MOST:
        raise Rejected(
            f"'input' holds {len(given):,} items, and at most {ITEMS_MOST:,} are taken; send several requests",
            param="input",
            code="array_above_max_length",
        )
    require_sizes([len(each) for each in given if isinstance(each, list)])


def arrays_of(given: Input) -> list[list[int]] | None:
    """Tell the token arrays of an input; None where it holds texts.

    Raises:
        Rejected: an array is empty, or there are none or too many of them.
    """
    if isinstance(given, str) or (given and isinstance(given[0], str)):
        return None
    require_few(given)
    arrays = [given] if given and isinstance(given[0], int) else given
    if not _are_arrays(arrays):
        raise Rejected("'input' has to be a string, a list of strings, or token arrays", param="input")
    _require_some(arrays, "token array")
    return arrays


def texts_of(given: Input) -> list[str]:
    """Tell the texts of an input that holds no token arrays.

    Raises:
        Rejected: a text is empty, or there are none or too many of them.
    """
    texts = [given] if isinstance(given, str) else given
    require_few(texts)
    if not _are_texts(texts):
        raise Rejected("'input' has to be a string, a list of strings, or token arrays", param="input")
    _require_some(texts, "string")
    return texts


def most_tokens(text: str) -> int:
    """Say how many tokens a text cannot exceed, without tokenising it."""
    return len(text) if text.isascii() else len(text) * BYTES_EACH


def surely_within(most: Sequence[int]) -> bool:
    """Tell whether texts are short enough, each and together, by what each cannot exceed."""
    return max(most) <= TOKENS_EACH and sum(most) <= TOKENS_MOST


def require_within(texts: Sequence[str], count: Callable[[str], int]) -> None:
    """Let texts through that are short enough, each and together, by their tokens.

    Raises:
        Rejected: one is too long, or all of them together are.
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
    if total > TOKENS_MOST:
        raise too_many(total)


def require_sizes(sizes: Sequence[int]) -> int:
    """Let token arrays through that are short enough, each and together, and return how many tokens they have.

    Raises:
        Rejected: one is too long, or all of them together are.
    """
    for place, size in enumerate(sizes):
        if size > TOKENS_EACH:
            raise too_long(place, size)
    if sum(sizes) > TOKENS_MOST:
        raise too_many(sum(sizes))
    return sum(sizes)


def too_long(place: int, tokens: int) -> Rejected:
    """Say that one input is too long, as OpenAI does."""
    return Rejected(
        f"This model's maximum context length is {TOKENS_EACH} tokens, however you requested {tokens} tokens"
        f" ({tokens} in your prompt; 0 for the completion; input[{place}]). Please reduce your prompt; or completion"
        " length.",
        inputs=(place,),
    )


def too_many(tokens: int) -> Rejected:
    """Say that all inputs together are too long, as OpenAI does."""
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
            f"'$.input' is invalid: input[{empty[0]}] is an empty {what}; leave it away",
            inputs=empty,
            param="input",
        )
