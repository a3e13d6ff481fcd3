"""Flaws of what is refused, of models and of keys, each with the checks that have to find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.testing.conformance.flawed import KEY, LIMITED, NAME, WIDTH, simulator
from tests.testing.conformance.flaws import (
    Limiting,
    Told,
    asking,
    models,
    refused_with,
    refusing,
)

from flowbed.testing.conformance import answers as a
from flowbed.testing.conformance.checks import encodings as e
from flowbed.testing.conformance.checks import inputs as i
from flowbed.testing.conformance.checks import keys as k
from flowbed.testing.conformance.checks import models as m
from flowbed.testing.conformance.checks import refusals as r

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.conformance.flaws import Asked, Fields, Flaw, Inner


def kept(keep: Callable[[Any], bool]) -> Flaw:
    """Drop some of the inputs, where there is a list of them, and say nothing."""

    def change(asked: Asked) -> Fields | None:
        given = asked.fields.get("input")
        return asked.but(input=list(filter(keep, given))) if isinstance(given, list) else None

    return asking(change)


def taken_for(wrong: Callable[[Asked], object], **fields: Any) -> Flaw:
    """Take what is wrong for something else."""
    return asking(lambda asked: asked.but(**fields) if wrong(asked) else None)


def cut(asked: Asked) -> Fields:
    """Cut what is long, and say nothing."""

    def short(each: Any) -> Any:
        return each[:8192] if isinstance(each, list) else each

    given = asked.fields.get("input")
    if isinstance(given, list) and given and isinstance(given[0], list):
        return asked.but(input=list(map(short, given)))
    if isinstance(given, str) or (isinstance(given, list) and all(type(each) is int for each in given)):
        return asked.but(input=given[:8192])
    return asked.fields


def as_text(asked: Asked) -> Fields | None:
    """Take whatever comes for text."""
    given = asked.fields.get("input")
    if isinstance(given, str) or given is None or given == []:
        return None
    listed = given if isinstance(given, list) else [given]
    return asked.but(input=[each if isinstance(each, str) else str(each) for each in listed])


def as_tokens(asked: Asked) -> Fields | None:
    """Take numbers that are no tokens for the first that is one."""

    def token(each: Any) -> Any:
        if isinstance(each, list):
            return list(map(token, each))
        return each if type(each) is not int or 0 <= each < 100_000 else 0

    given = asked.fields.get("input")
    return asked.but(input=token(given)) if isinstance(given, list) else None


def fitted(asked: Asked) -> Fields | None:
    """Take dimensions that cannot be for the nearest that can."""
    wanted = asked.fields.get("dimensions")
    if wanted is None:
        return None
    return asked.but(dimensions=min(max(int(wanted), 1), WIDTH) if isinstance(wanted, int | float) else None)


def no_model(asked: Asked) -> bool:
    name = asked.fields.get("model")
    return not isinstance(name, str) or not name


def beyond_items(asked: Asked) -> Fields | None:
    given = asked.given
    return asked.but(input=given[:2048]) if len(given) > 2048 and not isinstance(given[0], int) else None


def beyond_tokens(asked: Asked) -> Fields | None:
    given = asked.given
    return asked.but(input=given[:30]) if len(given) == 40 and isinstance(given[0], list) else None


async def lenient(asked: Asked, inner: Inner) -> Told:
    """Take what is no JSON object for a request."""
    if asked.method == "POST" and not isinstance(asked.said, dict):
        return await inner({"model": NAME, "input": "text"})
    return await inner(asked.said)


async def unprocessable(asked: Asked, inner: Inner) -> Told:
    told = await inner(asked.said)
    return Told(422, {"detail": [{"msg": "invalid"}]}, told.headers) if told.status == 400 else told


async def unknown_to_the_framework(asked: Asked, inner: Inner) -> Told:
    """Answer as a web framework does where it knows nothing."""
    if "a-path" in asked.path or (asked.method, asked.path) == ("GET", "/v1/embeddings"):
        told = await inner(asked.said)
        return Told(told.status, {"detail": "Not Found"}, told.headers)
    return await inner(asked.said)


async def any_model(asked: Asked, inner: Inner) -> Told:
    """Answer with the one model there is, whatever is asked for."""
    if asked.path.startswith("/v1/models/"):
        return await inner(asked.said, path=f"/v1/models/{NAME}")
    return await inner(asked.but(model=NAME) if asked.fields.get("model") else asked.said)


async def no_single_model(asked: Asked, inner: Inner) -> Told:
    if asked.path.startswith("/v1/models/"):
        return refused_with(404, "There is no such path.", "model_not_found")
    return await inner(asked.said)


async def one_model_twice(asked: Asked, inner: Inner) -> Told:
    told = await inner(asked.said)
    if asked.path == "/v1/models" and told.status == 200:
        told.said["data"] *= 2
    return told


def let_in(whom: Callable[[Asked], bool]) -> Flaw:
    """Let some in as if they had a key."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        if whom(asked):
            return await inner(asked.said, headers=[(b"authorization", f"Bearer {KEY}".encode())])
        return await inner(asked.said)

    return flaw


def in_errors(**fields: Any) -> Flaw:
    return refusing(lambda told: told.said["error"].update(fields))


def repeated(told: Told) -> None:
    told.said["error"]["message"] += k.WRONG_KEY


BAD = {
    *(each for each in r.CHECKS if each not in {r.unknown_model, r.wrong_method, r.unknown_path}),
    e.unknown_encoding,
    e.more_dimensions,
    e.impossible_dimensions,
    a.request_id,
}
REFUSED = {*BAD, r.unknown_model, r.wrong_method, r.unknown_path, m.unknown, *k.CHECKS}
FLAWS: dict[str, tuple[Any, set[Any]]] = {
    "what cannot be is unprocessable": (unprocessable, BAD),
    "errors have no param": (refusing(lambda told: told.said["error"].pop("param")), REFUSED),
    "errors have a number for a code": (in_errors(code=400), REFUSED),
    "errors have no message": (in_errors(message=""), REFUSED),
    "errors have no type": (in_errors(type=None), REFUSED),
    "errors have no code": (
        in_errors(code=None),
        {r.unknown_model, r.tokens_300000, m.unknown, k.wrong_key, k.limited},
    ),
    "errors have other words": (in_errors(message="No."), {r.tokens_8193, r.tokens_300000}),
    "refusals are to be asked for again": (
        refusing(lambda told: told.headers.update({"x-should-retry": "true"})),
        {r.asked_once},
    ),
    "paths that there are not are unknown to the framework": (
        unknown_to_the_framework,
        {r.wrong_method, r.unknown_path},
    ),
    "whatever comes is taken for text": (
        asking(as_text),
        {i.a_token_array, i.token_arrays, i.tokens_8192}
        | {r.empty_token_array, r.other_inputs, r.no_tokens, r.tokens_8193, r.tokens_300000},
    ),
    "numbers that are no tokens are taken": (asking(as_tokens), {r.no_tokens}),
    "long texts are cut": (asking(cut), {r.tokens_8193}),
    "items beyond 2,048 are dropped": (asking(beyond_items), {r.items_2049}),
    "tokens beyond 300,000 are dropped": (asking(beyond_tokens), {r.tokens_300000}),
    "empty texts in a list are dropped": (
        kept(lambda each: each != ""),
        {r.empty_string_in_a_list, r.next_is_answered},
    ),
    "empty arrays in a list are dropped": (kept(lambda each: each != []), {r.empty_token_array}),
    "an empty text is taken": (
        taken_for(lambda asked: asked.fields.get("input") == "", input=" "),
        {r.empty_string, r.asked_once, a.request_id},
    ),
    "an empty list is taken": (
        taken_for(lambda asked: asked.fields.get("input") == [], input=" "),
        {r.empty_list},
    ),
    "a missing input is taken": (
        taken_for(lambda asked: asked.fields.get("input") is None, input=" "),
        {r.no_input},
    ),
    "a missing model is the first": (taken_for(no_model, model=NAME), {r.no_model}),
    "any user is taken": (taken_for(lambda _: True, user=None), {r.wrong_user}),
    "encodings that there are not are float": (
        taken_for(lambda asked: asked.fields.get("encoding_format") == "hex", encoding_format="float"),
        {e.unknown_encoding},
    ),
    "dimensions are made to fit": (asking(fitted), {e.more_dimensions, e.impossible_dimensions}),
    "fields that there are not are passed over": (simulator(strict=False), {r.unknown_field}),
    "what is no JSON is taken": (lenient, {r.not_json}),
    "every model is the one there is": (
        any_model,
        {r.unknown_model, r.no_model, r.asked_once, m.unknown},
    ),
    "no single model is told": (no_single_model, {m.retrieved, m.embeds}),
    "a model is listed twice": (one_model_twice, {m.listed}),
    "models have no time": (models(lambda _, row: row.pop("created")), {m.listed}),
    "models are called something else": (
        models(lambda _, row: row.update(object="engine")),
        {m.listed, m.embeds},
    ),
    "a model is another when it is retrieved": (
        models(lambda asked, row: row.update(created=len(asked.path))),
        {m.retrieved},
    ),
    "everybody is let in": (let_in(lambda _: True), set(k.CHECKS)),
    "everybody may list models": (let_in(lambda asked: asked.method == "GET"), {k.wrong_key_elsewhere}),
    "who has no key is let in": (let_in(lambda asked: "authorization" not in asked.headers), {k.no_key}),
    "wrong keys are repeated": (refusing(repeated), {k.wrong_key}),
    "limits do not say when to come again": (Limiting(LIMITED, retry_after=None), {k.limited, k.waited_for}),
    "limits last an hour": (Limiting(LIMITED, retry_after="3600"), {k.waited_for}),
    "limits have another code": (Limiting(LIMITED, code="too_many"), {k.limited}),
}
