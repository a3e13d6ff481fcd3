"""docs/logs.md has every field, message and point of the logs, and no other."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "flowbed"
PAGE = (ROOT / "docs" / "logs.md").read_text("utf-8")
POINTS = {name: value for name, value in vars(telemetry).items() if name.isupper() and isinstance(value, str)}
LEVELS = {"error", "warning", "info", "debug"}
# They log what another part has written.
PASSED_ON = {"%s", "%s %s"}


@cache
def calls() -> tuple[ast.Call, ...]:
    """Return every call in the package."""
    trees = (ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py"))
    return tuple(node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))


def tables(section: str) -> Iterator[list[str]]:
    """Yield the cells of the lines of a section's table, without its head."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)[2:]:
        yield [cell.strip() for cell in line.replace("\\|", "/").split(" | ")]


def test_logs_page_has_every_point_with_its_facts() -> None:
    facts: dict[str, set[str]] = defaultdict(set)
    for call in calls():
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "reached" and call.args:
            point = ast.unparse(call.args[0]).rpartition(".")[2]
            facts[POINTS[point]] |= {keyword.arg for keyword in call.keywords if keyword.arg is not None}
    documented = {
        point.strip("`"): set(re.findall(r"`(\w+)`", listed)) for point, listed, _ in tables("Points")
    }
    assert documented == {point: facts[point] for point in POINTS.values()}


def test_logs_page_has_every_message_with_its_level() -> None:
    found = {
        (call.func.attr, str(call.args[0].value))
        for call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and ast.unparse(call.func.value).rpartition(".")[2] == "log"
        and isinstance(call.args[0], ast.Constant)
    }
    shown = {(level, re.sub(r"%[.\d]*[sdfg]", "…", text)) for level, text in found if text not in PASSED_ON}
    assert {(level, text) for level, text in tables("Messages")} == shown


def test_logs_page_has_every_field_of_a_request() -> None:
    """The fields are the keys that the code writes; those of the example are among them."""
    module = (PACKAGE / "server" / "logs.py").read_text("utf-8")
    code = ast.parse(module[module.index("class Log:") :])
    keys = {
        each.value
        for node in ast.walk(code)
        if isinstance(node, ast.Dict)
        for each in node.keys
        if isinstance(each, ast.Constant)
    }
    keys |= {
        node.slice.value
        for node in ast.walk(code)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        if isinstance(node.slice.value, str)
    }
    documented = {field for names, _ in tables("A request") for field in re.findall(r"`(\w+)`", names)}
    assert documented == keys
    (example,) = re.findall(r"^```json\n(.*)\n```$", PAGE, re.MULTILINE)
    assert set(json.loads(example)) <= documented
