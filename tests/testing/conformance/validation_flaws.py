"""Flaws of how batches judge their inputs, each with the checks that have to find it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.testing.conformance.batch_flaws import in_the_end
from tests.testing.conformance.flawed import NAME
from tests.testing.conformance.job_flaws import inputs, objects, rewriting

from flowbed.testing.conformance.checks import validation as v
from flowbed.testing.conformance.checks.refusals import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testing.conformance.flaws import Fields, Flaw

NO_JSON = re.compile(rb'^(\{"custom_id": "b", |\[\]|text)\n', re.MULTILINE)
NO_LINE = re.compile(rb'(filename="in.jsonl"\r\n[^{]*?\r\n\r\n)\n*\r\n')
LINE = (
    f'{{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{{"model":"{NAME}","input":"text"}}}}'
)
FIELDS = {"custom_id", "method", "url", "body"}


def in_errors(change: Callable[[Fields], object]) -> Flaw:
    """Change what is said of what is wrong."""

    def of(row: Fields) -> None:
        for each in (row["errors"] or {}).get("data", []):
            change(each)

    return objects("batch", of)


def failed(**fields: Any) -> Flaw:
    """Say something else of batches that failed."""
    return in_the_end(lambda row: row.update(fields) if row["status"] == "failed" else None)


def lenient(message: str) -> Flaw:
    """Take a batch that fails, with an error of which this is part, for completed."""

    def of(row: Fields) -> None:
        if message in str(row["errors"]):
            row.update(status="completed", errors=None)

    return objects("batch", of)


def usual(name: str, value: str) -> Flaw:
    """Take a field of a line, where it is said, for what is usual."""
    return inputs(lambda line: {**line, name: value} if name in line else line)


def known(line: Fields) -> Fields:
    """Take a model that there is not for the one that there is."""
    body = line.get("body", {})
    return {**line, "body": {**body, "model": NAME}} if body.get("model") == UNKNOWN else line


def few(line: Fields) -> Fields:
    """Leave out inputs, and say nothing."""
    body = line.get("body", {})
    given = body.get("input")
    return (
        {**line, "body": {**body, "input": given[:9]}}
        if isinstance(given, list) and len(given) > 1000
        else line
    )


def first_alone(row: Fields) -> None:
    """Name the first line that is wrong, and no other."""
    if row["errors"]:
        row["errors"]["data"] = row["errors"]["data"][:1]


def renamed(form: bytes) -> bytes:
    """Give the second line of a name another."""
    first, found, rest = form.partition(b'{"custom_id": "a"')
    return first + found + rest.replace(b'{"custom_id": "a"', b'{"custom_id": "another"')


# Those that name a line, and those whose batch fails: an empty file is refused by the simulator as it is sent.
NAMED = {v.same_name, v.other_url, v.other_method, v.other_model, v.not_json, v.lacking, v.several}
FAILING = NAMED | {v.too_many, v.unknown_file, v.other_purpose}
FLAWS: dict[str, tuple[Any, set[Any]]] = {
    "names that come twice are taken": (rewriting(renamed), {v.same_name, v.several}),
    "addresses of lines are passed over": (usual("url", "/v1/embeddings"), {v.other_url, v.several}),
    "methods of lines are passed over": (usual("method", "POST"), {v.other_method}),
    "models of lines are passed over": (inputs(known), {v.other_model}),
    "lines that are no JSON are left out": (
        rewriting(lambda form: NO_JSON.sub(b"", form)),
        {v.not_json, v.several},
    ),
    "lines that lack something are left out": (
        inputs(lambda line: line if set(line) >= FIELDS else None),
        {v.lacking},
    ),
    "inputs without a line are taken": (
        rewriting(lambda form: NO_LINE.sub(rb"\1" + LINE.encode() + rb"\r\n", form)),
        {v.empty},
    ),
    "inputs are not counted": (inputs(few), {v.too_many}),
    "files that there are not are taken": (lenient("Cannot find file"), {v.unknown_file}),
    "files for other purposes are taken": (lenient("is of purpose"), {v.other_purpose}),
    "one line is named": (objects("batch", first_alone), {v.several}),
    "lines are counted from 0": (in_errors(lambda each: each.update(line=(each["line"] or 1) - 1)), NAMED),
    "no line is named": (in_errors(lambda each: each.update(line=None)), NAMED),
    "codes are others": (in_errors(lambda each: each.update(code="invalid")), {v.same_name, v.not_json}),
    "codes are missing": (in_errors(lambda each: each.update(code="")), FAILING),
    "params are missing": (in_errors(lambda each: each.pop("param")), FAILING),
    "nothing is said of what is wrong": (failed(errors=None), FAILING),
    "batches that fail have an output": (failed(output_file_id="file-none"), FAILING),
    "batches that fail did so at no time": (failed(failed_at=None), FAILING),
    "batches that fail are completed": (failed(status="completed"), FAILING),
}
