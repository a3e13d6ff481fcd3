"""Flaws of what is answered, each with the checks that have to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tests.testing.conformance.flawed import NAME, WIDTH, simulator
from tests.testing.conformance.flaws import (
    Knowing,
    Mixing,
    Stumbling,
    answering,
    arrange,
    asking,
    charging,
    header,
    numbers,
    packing,
    rows,
    said,
    when,
)

from flowbed.testing.conformance import answers as a
from flowbed.testing.conformance.checks import encodings as e
from flowbed.testing.conformance.checks import inputs as i
from flowbed.testing.conformance.checks import keys as k
from flowbed.testing.conformance.checks import refusals as r
from flowbed.testing.simulators import Fault, vectors_of
from flowbed.testing.simulators.providers.openai import Model

if TYPE_CHECKING:
    from tests.testing.conformance.flaws import Asked, Fields, Flaw

CHANCE = np.random.default_rng(1)


def noise(vectors: Any, _: Asked) -> Any:
    noisy = vectors + CHANCE.normal(0, 0.05, vectors.shape)
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def numbered(number: Any) -> Flaw:
    """Number the rows of an answer otherwise."""
    return rows(lambda _, data: [row.update(index=number(place, data)) for place, row in enumerate(data)])


def uneven(_: Asked, data: list[Fields]) -> None:
    if len(data) > 1 and isinstance(data[0]["embedding"], list):
        data[0]["embedding"] = data[0]["embedding"][:-1]


def list_of_one(asked: Asked, data: list[Fields]) -> None:
    if len(data) == 1 and isinstance(asked.fields["input"], list):
        data[0]["index"] = 1


def joined(_: Asked, data: list[Fields]) -> None:
    """Join parts of a thousand in the wrong order."""
    if len(data) > 1000:
        arrange(data, [*range(1000, len(data)), *range(1000)])


def once(asked: Asked) -> Fields | None:
    """Drop texts that come twice."""
    texts = asked.given
    return (
        asked.but(input=list(dict.fromkeys(texts))) if all(isinstance(text, str) for text in texts) else None
    )


def apart(vectors: Any, asked: Asked) -> Any:
    return vectors + (0.003 if asked.fields.get("encoding_format") == "base64" else 0)


def shorter(vectors: Any, asked: Asked) -> Any:
    """Forget to make reduced vectors as long as they were, in base64."""
    reduced = (asked.fields.get("dimensions") or WIDTH) < WIDTH
    return vectors * 0.9 if reduced and asked.fields.get("encoding_format") == "base64" else vectors


def backwards(vectors: Any, asked: Asked) -> Any:
    return vectors[:, ::-1] if asked.fields.get("dimensions") == WIDTH else vectors


def base64_first(asked: Asked) -> Fields:
    return asked.but(encoding_format=asked.fields.get("encoding_format") or "base64")


def many_items(asked: Asked) -> bool:
    return len(asked.given) > 100 and not isinstance(asked.given[0], int)


def many_tokens(asked: Asked) -> bool:
    return len(asked.given) > 1000 and isinstance(asked.given[0], int)


def characters(asked: Asked, _: int) -> int:
    return sum(len(str(each)) for each in asked.given)


def distinct(asked: Asked, tokens: int) -> int:
    """Charge nothing for one of two texts that are the same."""
    return tokens - (len(set(map(str, asked.given))) < len(asked.given))


LISTS = {i.a_list, i.a_list_partly_known, i.a_text_twice, i.items_2048, i.token_arrays, i.many_at_once}
ONES = {i.a_string, i.a_list_of_one, i.a_token_array, i.tokens_8192}
# What asks for one of the texts that faults are ordered for, among others.
OF_A_TEXT = {
    i.length_one,
    i.different_texts,
    i.a_list,
    i.token_arrays,
    a.shape,
    a.usage,
    a.usage_adds_up,
    a.usage_of_openai,
}
FLAWS: dict[str, tuple[Any, set[Any]]] = {
    "the last vector comes first": (Fault(kind="wrong_order"), LISTS),
    "every vector is numbered 0": (Fault(kind="wrong_index"), LISTS),
    "vectors are numbered backwards": (numbered(lambda place, data: len(data) - 1 - place), LISTS),
    "vectors are numbered from 1": (numbered(lambda place, _: place + 1), LISTS | ONES),
    "vectors are not numbered": (numbered(lambda *_: None), LISTS | ONES | {a.shape}),
    "a list of one is numbered 1": (
        rows(list_of_one),
        {i.a_list_of_one, i.a_token_array, i.tokens_8192, i.many_at_once},
    ),
    "the last text has no vector": (
        Fault(kind="missing"),
        LISTS
        | ONES
        | {i.asked_again, i.a_user, e.default_on_the_wire, e.fewer_dimensions, e.more_dimensions}
        | {a.usage_adds_up, a.usage_grows, a.request_id, r.next_is_answered, k.waited_for},
    ),
    "answers are no JSON": (Fault(kind="garbled", text="def add"), OF_A_TEXT),
    "requests of one text fail": (Fault(kind="error", text="def add"), OF_A_TEXT),
    "a vector holds no numbers": (Fault(kind="not_finite", text="def add"), OF_A_TEXT),
    "every text has the same vector": (
        simulator(vectors=lambda name, texts, width, _: vectors_of(name, ["one"] * len(texts), width, "")),
        LISTS | {i.different_texts},
    ),
    "parts are joined in the wrong order": (rows(joined), {i.items_2048}),
    "what is known comes first": (Knowing(order=True), {i.a_list_partly_known}),
    "texts that come twice are dropped": (
        asking(once),
        {i.a_text_twice, a.usage_adds_up, r.items_2049},
    ),
    "answers under way are mixed up": (Mixing(), {i.many_at_once}),
    "vectors are others each time": (
        numbers(noise),
        LISTS
        | {i.a_list_of_one, i.asked_again, i.a_token_array, i.a_user, i.nulls}
        | {e.base64, e.same_in_each_encoding, e.fewer_dimensions, e.all_dimensions},
    ),
    "vectors are of length 2": (
        numbers(lambda vectors, _: vectors * 2),
        {i.length_one, e.fewer_dimensions},
    ),
    "vectors are of several lengths": (
        rows(uneven),
        {i.nulls, e.floats, e.base64, e.same_in_each_encoding, e.fewer_dimensions, e.all_dimensions},
    ),
    "requests end at 100 items": (when(many_items), {i.items_2048}),
    "requests end at 1,000 tokens": (when(many_tokens), {i.tokens_8192, r.tokens_8193}),
    "texts end at 512 tokens": (
        simulator(models={NAME: Model(dimensions=WIDTH, tokens=512)}),
        {i.tokens_8192, r.tokens_8193, r.tokens_300000},
    ),
    "token arrays are refused": (
        when(lambda asked: any(type(each) in {int, list} for each in asked.given)),
        {i.a_token_array, i.token_arrays, i.tokens_8192, a.usage_grows, r.tokens_8193, r.tokens_300000},
    ),
    "lists of token arrays are refused": (
        when(lambda asked: any(type(each) is list for each in asked.given)),
        {i.token_arrays, r.tokens_8193, r.tokens_300000},
    ),
    "nulls are refused": (
        when(
            lambda asked: (
                None in [asked.fields.get(name, 1) for name in ("user", "dimensions", "encoding_format")]
            )
        ),
        {i.nulls},
    ),
    "a user is refused": (when(lambda asked: isinstance(asked.fields.get("user"), str)), {i.a_user}),
    "floats come for base64": (
        asking(lambda asked: asked.but(encoding_format="float")),
        {e.default_of_the_sdk, e.base64, e.unknown_encoding},
    ),
    "base64 comes for floats": (
        asking(lambda asked: asked.but(encoding_format="base64")),
        {e.floats, e.default_on_the_wire, e.unknown_encoding, i.nulls},
    ),
    "base64 is the default": (asking(base64_first), {e.default_on_the_wire, i.nulls}),
    "base64 is of float64": (
        packing("<f8"),
        {i.length_one, i.nulls, e.base64, e.same_in_each_encoding, e.fewer_dimensions},
    ),
    "base64 holds other numbers": (
        numbers(apart),
        {i.length_one, e.same_in_each_encoding, e.fewer_dimensions},
    ),
    "dimensions are passed over": (
        asking(lambda asked: asked.but(dimensions=None)),
        {e.fewer_dimensions, e.more_dimensions, e.impossible_dimensions},
    ),
    "base64 is shorter after a reduction": (numbers(shorter), {e.fewer_dimensions}),
    "naming all dimensions gives others": (numbers(backwards), {e.all_dimensions}),
    "rows are called something else": (
        rows(lambda _, data: [row.update(object="vector") for row in data]),
        {a.shape},
    ),
    "the list is called something else": (said("object", "embeddings"), {a.shape}),
    "the model is not named": (said("model", ""), {a.shape}),
    "answers are plain text": (header("content-type", "text/plain"), {a.shape}),
    "usage is missing": (
        said("usage", None),
        {a.usage, a.usage_again, a.usage_adds_up, a.usage_grows, a.usage_of_openai},
    ),
    "usage is 0": (
        charging(lambda *_: 0),
        {a.usage, a.usage_again, a.usage_adds_up, a.usage_grows, a.usage_of_openai},
    ),
    "usage is always 1": (
        charging(lambda *_: 1),
        {a.usage_adds_up, a.usage_grows, a.usage_of_openai},
    ),
    "usage counts characters": (charging(characters), {a.usage_of_openai}),
    "usage counts a text once": (charging(distinct), {a.usage_adds_up}),
    "total tokens are others than those of the prompt": (
        answering(lambda _, told: told.said["usage"].update(total_tokens=0)),
        {a.usage, a.usage_again, a.usage_adds_up, a.usage_grows, a.usage_of_openai},
    ),
    "what is known is charged nothing": (
        Knowing(usage=True),
        {a.usage, a.usage_again, a.usage_adds_up, a.usage_of_openai},
    ),
    "answers have no id": (header("x-request-id", None), {a.request_id}),
    "answers have the same id": (header("x-request-id", "one"), {a.request_id}),
    "after a refusal a worker dies": (Stumbling(), {r.next_is_answered}),
}
