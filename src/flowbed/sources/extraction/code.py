"""Source code: where its definitions and statements begin, by the grammar of its language."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

import tree_sitter

from flowbed.records.extracts import Block, Extract, Form, Part
from flowbed.sources.extraction.writer import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flowbed.sources.extraction.writer import Room

# The function of a grammar's package that returns it, where it is not `language`.
FUNCTIONS = {"typescript": "language_typescript", "tsx": "language_tsx", "php": "language_php"}
PACKAGES = {"tsx": "typescript"}

# A file of which more cannot be parsed is in another language, or a template.
MOST_ERRORS = 0.2
# Statements nested deeper are cut like those at this depth.
DEEPEST = 12
# What has a name and a body and is no definition.
NO_DEFINITIONS = ("call", "argument", "attribute", "parameter", "import", "element", "pair")
# Parts of a definition that stand before it and stay with it.
BEFORE = ("comment", "decorator", "attribute", "annotation", "doc")


def extract_code(path: Path, room: Room, language: str) -> Extract:
    """Find the structure of a file.

    Raises:
        RefusedError: it is not UTF-8, or mostly not in this language.
    """
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = room.take(raw.decode())
    except UnicodeDecodeError as error:
        raise RefusedError(f"it is not UTF-8: {error}") from error
    module = import_module(f"tree_sitter_{PACKAGES.get(language, language)}")
    grammar = tree_sitter.Language(getattr(module, FUNCTIONS.get(language, "language"))())
    tree = tree_sitter.Parser(grammar).parse(raw)
    blocks, wrong = _blocks(tree.root_node, raw)
    if wrong > MOST_ERRORS * len(raw):
        raise RefusedError(f"{wrong:,} of its {len(raw):,} bytes are not {language}")
    return Extract(parts=(Part(text=text, blocks=tuple(_in_characters(blocks, raw))),))


def _blocks(root: tree_sitter.Node, raw: bytes) -> tuple[list[Block], int]:
    """Return the blocks, by bytes and in order, and how many bytes could not be parsed."""
    found: list[Block] = []
    wrong, last_row = 0, -1
    # A list instead of recursion, since code may be nested deeper than Python's stack.
    waiting = [(child, 0) for child in reversed(root.children)]
    while waiting:
        node, depth = waiting.pop()
        if node.is_error or node.is_missing:
            wrong += node.end_byte - node.start_byte
            continue
        row, end_row = node.start_point.row, node.end_point.row
        name = _name(node) if end_row > row else ""
        if name or (node.is_named and row != last_row and _begins_line(raw, node)):
            last_row = row
            form = Form.DEFINITION if name else Form.PARAGRAPH
            if not name and any(each in node.type for each in BEFORE):
                form = Form.HEADING  # stays with what follows
            found.append(
                Block(
                    form=form, start=node.start_byte, end=node.end_byte, level=min(depth, DEEPEST), name=name
                )
            )
            depth += 1
        if end_row > row:  # what stands in one line is not cut
            inner = _body(node).children if name else node.children
            # The first statement stays with the name and the parameters above it.
            waiting += [
                (child, depth if index or not name else DEEPEST) for index, child in enumerate(inner)
            ][::-1]
    return found, wrong


def _begins_line(raw: bytes, node: tree_sitter.Node) -> bool:
    before = raw[node.start_byte - node.start_point.column : node.start_byte]
    return not before.strip()


def _name(node: tree_sitter.Node) -> str:
    """Return the name of a definition, empty if the node is none."""
    if (decorated := node.child_by_field_name("definition")) is not None:
        return _name(decorated)
    if not node.is_named or any(each in node.type for each in NO_DEFINITIONS):
        return ""
    named = node.child_by_field_name("name")
    body = node.child_by_field_name("body")
    value = node.child_by_field_name("value")
    if named is None and body is not None:
        named = node.child_by_field_name("type") if node.type == "impl_item" else _declared(node)
    is_function = value is not None and "function" in value.type
    is_definition = body is not None or node.type.endswith(("_declaration", "_definition", "_item"))
    if named is None or named.text is None or not (is_definition or is_function):
        return ""
    return " ".join(named.text.decode("utf-8", "replace").split())


def _body(node: tree_sitter.Node) -> tree_sitter.Node:
    """Return what holds the statements of a definition: its body, or else its last part."""
    for field in ("definition", "value"):
        if (inner := node.child_by_field_name(field)) is not None:
            return _body(inner)
    return node.child_by_field_name("body") or (node.named_children or [node])[-1]


def _declared(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Return what a declaration of C declares, below its pointers and parameters."""
    inner = node.child_by_field_name("declarator")
    while inner is not None and (deeper := inner.child_by_field_name("declarator")) is not None:
        inner = deeper
    return inner


def _in_characters(blocks: Sequence[Block], raw: bytes) -> Iterator[Block]:
    """Change the offsets of bytes into those of characters."""
    if raw.isascii():
        yield from blocks
        return
    places = sorted({0, *(place for block in blocks for place in (block.start, block.end))})
    characters, count = {0: 0}, 0
    for before, after in pairwise(places):
        count += len(raw[before:after].decode("utf-8", "replace"))
        characters[after] = count
    for block in blocks:
        yield Block(
            form=block.form,
            start=characters[block.start],
            end=characters[block.end],
            level=block.level,
            name=block.name,
        )
