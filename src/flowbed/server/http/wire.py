"""The wire format of embeddings: bytes to `EmbeddingsRequest`, `EmbeddingsResult` to bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from pybase64 import b64encode

from flowbed.errors import Rejected
from flowbed.records.serving import EmbeddingsRequest
from flowbed.server.http.errors import Unsupported
from flowbed.services.embedding.inputs import require_few

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records.serving import EmbeddingsResult, Input

FIELDS = frozenset({"input", "model", "encoding_format", "dimensions", "user", "input_type"})
# OpenAI's words for an invalid input; the reason is appended.
INPUT = (
    "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
)
# Token ids of every tokenizer fit into four bytes.
LAST_TOKEN = 2**32 - 1
# Bytes of vectors written before other requests get a turn: a millisecond as base64.
BLOCK = 1 << 20
FLOAT = np.dtype("<f4")


def parse(body: bytes, *, content_type: bytes = b"", crossing: bool = False) -> EmbeddingsRequest:
    """Parse the body of a request; null counts as absent.

    Raises:
        Unsupported: the body is not declared as JSON.
        Rejected: it is not a JSON object, or a field is missing, unknown or of a wrong type.
    """
    fields = read_object(body, content_type)
    for name in fields:
        if name not in FIELDS:
            raise Rejected(f"Unrecognized request argument supplied: {name}", param=name)
    if not isinstance(model := fields.get("model"), str) or not model:
        raise Rejected("you must provide a model parameter", param="model")
    _text(fields, "user")
    return EmbeddingsRequest(
        model=model,
        input=_input(fields.get("input")),
        dimensions=_dimensions(fields.get("dimensions")),
        encoding=_one_of(fields, "encoding_format", ("float", "base64")),
        input_type=_one_of(fields, "input_type", ("document", "query")),
        crossing=crossing,
    )


def read_object(body: bytes, content_type: bytes, *, nulls: bool = False) -> dict[str, Any]:
    """Parse a JSON object, leaving out null fields unless `nulls` says something by them.

    Raises:
        Unsupported: the body is not declared as JSON.
        Rejected: it is not a JSON object.
    """
    # Without a content type, the body is taken for JSON.
    declared = content_type.partition(b";")[0].strip().lower()
    if declared and declared != b"application/json":
        raise Unsupported(
            f"Unsupported content type: '{declared.decode('latin-1')}'. This API method only accepts"
            " 'application/json' requests, but you specified the header 'Content-Type:"
            f" {declared.decode('latin-1')}'. Please try again with a supported content type."
        )
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP"
            " library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON:"
            f" {error.msg}, line {error.lineno} column {error.colno}.)"
        ) from error
    if not isinstance(read, dict):
        raise Rejected("The body of the request must be a JSON object.")
    return {name: value for name, value in read.items() if nulls or value is not None}


def _input(value: Any) -> Input:
    """Return an input that is a text, texts, token ids or arrays of them, with few enough items to check each."""
    if value is None:
        raise Rejected("'input' is a required property", param="input")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _invalid(
            "It must be a string, an array of strings, an array of tokens or an array of such arrays."
        )
    require_few(value)
    if _is_array(value):
        return value
    first = value[0] if value else ""
    fits, kind = next(((fits, kind) for fits, kind in KINDS if fits(first)), KINDS[0])
    for place, each in enumerate(value):
        if not fits(each):
            raise _invalid(f"input[{place}] is not {kind}.")
    return value


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LAST_TOKEN


def _is_array(value: Any) -> bool:
    # Same as `_is_token` for each item, in a tenth of the time.
    return type(value) is list and (
        not value or (set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= LAST_TOKEN)
    )


# Kinds of items; all items of an array are of one kind.
KINDS = ((_is_text, "a string"), (_is_token, "a token"), (_is_array, "an array of tokens"))


def _dimensions(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int:
        raise Rejected(
            "Invalid type for 'dimensions': expected an integer.", param="dimensions", code="invalid_type"
        )
    if value < 1:
        raise Rejected(
            f"{value} is less than the minimum of 1 - 'dimensions'",
            param="dimensions",
            code="integer_below_min_value",
        )
    return value


def _text(fields: Mapping[str, Any], name: str) -> None:
    if not isinstance(fields.get(name, ""), str):
        raise Rejected(f"Invalid type for '{name}': expected a string.", param=name, code="invalid_type")


def _one_of(fields: Mapping[str, Any], name: str, values: tuple[str, ...]) -> Any:
    value = fields.get(name, values[0])
    if not isinstance(value, str) or value not in values:
        known = " and ".join(f"'{each}'" for each in values)
        raise Rejected(
            f"Invalid value for '{name}'. Supported values are: {known}.", param=name, code="invalid_value"
        )
    return value


def _invalid(why: str) -> Rejected:
    return Rejected(f"{INPUT} {why}")


async def write(result: EmbeddingsResult, encoding: str) -> bytes:
    """Write a response as OpenAI does: inputs in order, as floats or base64 of little-endian float32."""
    rows = np.ascontiguousarray(result.vectors, FLOAT)
    written = _base64 if encoding == "base64" else _floats
    parts = [b'{"object":"list","data":[']
    step = max(BLOCK // max(rows[:1].nbytes, 1), 1)
    for first in range(0, len(rows), step):
        if first:
            await asyncio.sleep(0)
        parts += [
            b'{"object":"embedding","index":%d,"embedding":%b},' % (place, written(rows[place]))
            for place in range(first, min(first + step, len(rows)))
        ]
    parts[-1] = parts[-1][:-1]  # no comma after the last
    parts.append(
        b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        % (orjson.dumps(result.model), result.tokens, result.tokens)
    )
    return b"".join(parts)


def _base64(row: Any) -> bytes:
    return b'"%b"' % b64encode(row)


def _floats(row: Any) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
