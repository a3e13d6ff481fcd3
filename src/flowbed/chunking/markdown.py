"""Markdown: split at headings, then at blocks from the outside in; code and tables stay whole where they fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from flowbed.chunking.atoms import divided
from flowbed.chunking.outline import Block, Heading, Outline
from flowbed.chunking.passages import BLANK_LINE, LINE, LINE_END, PARAGRAPH, Cut, assemble, line_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

    from flowbed.chunking import Rules
    from flowbed.chunking.passages import Piece
    from flowbed.records import Chunk, Document

FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*(?:\r\n?|\n).*?(?:\r\n?|\n)\1[ \t]*(?=\r|\n|\Z)", re.DOTALL)

# The beginning of the attributes that kramdown and Pandoc allow after a heading: `# Introduction {#intro}`.
ATTRIBUTES = re.compile(r"\{[#.:]")

# A longer heading is text that happens to be underlined; a path of such headings would not fit into a chunk.
LONGEST_HEADING = 200

# Tokens of blocks of code, and the lines of a table's header: the names of its columns, and dashes.
CODE = frozenset({"fence", "code_block"})
HEADER_LINES = 2

# Blocks that are parsed within some milliseconds.
TURN = 256


def chunk_markdown(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split a Markdown document into chunks, each with the path of its headings."""

    def turn() -> None:
        count("")  # which raises where the work is no longer wanted

    def divide(capacity: int, count: Callable[[str], int]) -> list[Piece]:
        return divided(document.text, outline(document.text, turn), capacity, count)

    return assemble(document, rules, count, divide)


def outline(text: str, turn: Callable[[], None]) -> Outline:
    """Find the structure of a Markdown text.

    `turn` is called every TURN blocks.

    Every non-blank line is a place, ranked by the outermost block that begins there. The line after a heading is not:
    it stays with the heading, so that a heading without text joins the next one.
    """
    front = FRONT_MATTER.match(text)
    body = LINE_END.sub("\n", text)
    if front:
        # Blanked instead of removed, to keep the line numbers.
        lines = len(LINE_END.findall(front[0]))
        body = "\n" * lines + body.split("\n", lines)[lines].removeprefix(front[1])
    starts = [*line_starts(text), len(text)]
    headings: list[Heading] = []
    blocks: list[Block] = []
    ranks: dict[int, int] = {}
    tokens = _PARSER.parse(body, {"turn": turn, "blocks": 0})
    for position, token in enumerate(tokens):
        if token.map is None or token.type == "inline":
            continue
        line, past = token.map
        rank = PARAGRAPH + min(token.level, BLANK_LINE - PARAGRAPH - 1)
        if token.type == "heading_open" and not token.level:
            headings.append(_heading(tokens[position + 1], int(token.tag[1]), starts[line], starts[past]))
            rank = headings[-1].level
        if token.type in CODE:
            blocks.append(Block(starts[line], starts[past]))
        elif token.type == "table_open":
            blocks.append(Block(starts[line], starts[past], starts[min(line + HEADER_LINES, past)]))
        ranks[line] = min(ranks.get(line, LINE), rank)
    return Outline(_cuts(text, starts, ranks, headings), headings, blocks)


def _cuts(
    text: str, starts: Sequence[int], ranks: Mapping[int, int], headings: Sequence[Heading]
) -> list[Cut]:
    """Rank the lines of `text`; the lines of a heading and the next non-blank line stay together."""
    ends = {heading.start: heading.end for heading in headings}
    cuts: list[Cut] = []
    blank = held = False
    inside = 0
    for line, start in enumerate(starts[:-1]):
        if start < inside:
            continue
        if not text[start : starts[line + 1]].strip():
            blank = True
            continue
        if held:
            cuts[-1] = replace(cuts[-1], lead=start - cuts[-1].offset)
        elif cuts:
            cuts.append(Cut(start, min(ranks.get(line, LINE), BLANK_LINE if blank else LINE)))
        else:
            cuts.append(Cut(0, PARAGRAPH))
        held = start in ends
        inside = ends.get(start, 0)
        blank = False
    return cuts or [Cut(0, PARAGRAPH)]


def _heading(content: Token, level: int, start: int, end: int) -> Heading:
    words = " ".join(_without_attributes(content.content).split())
    return Heading(start, end, level, words[:LONGEST_HEADING])


def _without_attributes(heading: str) -> str:
    """Remove the attributes at the end of a heading: from the first `{#`, `{.` or `{:` after which there is one `}`."""
    if not heading.endswith("}"):
        return heading
    begin = ATTRIBUTES.search(heading, heading.rfind("}", 0, -1) + 1)
    return heading[: begin.start()] if begin else heading


def _parser() -> MarkdownIt:
    # Blocks only: parsing emphasis and links moves no cut, and would be most of the work.
    parser = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
    parser.block.ruler.before("table", "turn", _take_turn)
    return parser


def _take_turn(state: StateBlock, _line: int, _end: int, _silent: bool) -> bool:
    """Let a caller end the parsing of a document of megabytes, which takes minutes; this rule matches no block."""
    state.env["blocks"] += 1
    if state.env["blocks"] % TURN == 0:
        state.env["turn"]()
    return False


_PARSER = _parser()
