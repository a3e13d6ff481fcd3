"""Checks a Chroma directory before chromadb opens it: the form of its database, and the files of its vectors.

Only the standard library and numpy are used, and the database is opened read-only and as unchanging.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from typing import TYPE_CHECKING

import numpy as np

from flowbed.publish.reading.archives import DATABASE, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Require = Callable[[bool | np.bool_, str], None]

# The tables that versions of chromadb from 0.4 on create.
TABLES = frozenset(
    {
        "migrations",
        "acquire_write",
        "collection_metadata",
        "segment_metadata",
        "tenants",
        "databases",
        "collections",
        "maintenance_log",
        "segments",
        "embeddings",
        "embedding_metadata",
        "embedding_metadata_array",
        "max_seq_id",
        "embedding_fulltext",
        "embedding_fulltext_data",
        "embedding_fulltext_idx",
        "embedding_fulltext_content",
        "embedding_fulltext_docsize",
        "embedding_fulltext_config",
        "embedding_fulltext_search",
        "embedding_fulltext_search_data",
        "embedding_fulltext_search_idx",
        "embedding_fulltext_search_content",
        "embedding_fulltext_search_docsize",
        "embedding_fulltext_search_config",
        "embeddings_queue",
        "embeddings_queue_config",
        "sqlite_sequence",
        "sqlite_stat1",
        "sqlite_stat4",
    }
)
_FULL_TEXT = re.compile(
    r"""CREATE VIRTUAL TABLE "?embedding_fulltext(?:_search)?"? USING fts5\([\w, ]+(?:, ?tokenize='trigram')?\)"""
)
_INDEX = re.compile(
    r"""CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?"?\w+"? ON "?\w+"? ?\([\w ,"]+\)(?: WHERE \w+ IS NOT NULL)?"""
)
# What a column may not have: an expression that is evaluated when a row is read or written.
_EXPRESSION = re.compile(
    r"\b(?:CHECK|GENERATED|ALWAYS|AS|SELECT|COLLATE|USING)\b|DEFAULT\s*\(", re.IGNORECASE
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# In one statement and in one value; a document of a gigabyte is no document.
MOST_SQL, MOST_VALUE = 100_000, 2**28

# header.bin of hnswlib as chromadb writes it: version, offset of level 0, capacity, elements, bytes an element, offsets
# of the label and of the vector, highest level, entry point, links a level, links of level 0, links, factor, ef.
HEADER = struct.Struct("<i6QiI3QdQ")
_LEVELS = 64


def check_database(folder: Path) -> None:
    """Check that a database has only tables and indexes of chromadb's form, and is whole.

    Raises:
        RefusedError: it does not; the message names the first difference.
    """
    path = folder / DATABASE
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise RefusedError(f"{DATABASE} cannot be opened: {error}") from error
    try:
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        database.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
        database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MOST_SQL)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        for kind, name, table, sql in database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"):
            _check_object(kind, str(name), str(table), sql)
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise RefusedError(f"{DATABASE} is damaged: {str(verdict)[:200]}")
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := {"collections", "segments", "embeddings"} - names:
            raise RefusedError(f"{DATABASE} is not of chromadb: it has no table {min(missing)}")
    except (sqlite3.Error, UnicodeError) as error:
        raise RefusedError(f"{DATABASE} cannot be read: {error}") from error
    finally:
        database.close()


def _check_object(kind: object, name: str, table: str, sql: object) -> None:
    shown = f"{kind} {name[:100]!r}"
    if kind not in {"table", "index"}:
        raise RefusedError(f"{DATABASE} has the {shown}, and chromadb creates no {kind}s")
    if table not in TABLES:
        raise RefusedError(f"{DATABASE} has the {shown}, which chromadb does not create")
    if sql is None:
        return  # the index of a primary key or a unique column
    if not isinstance(sql, str):
        raise RefusedError(f"{DATABASE} has the {shown} without a definition")
    plain = " ".join(_COMMENT.sub(" ", sql).split())
    if plain.upper().startswith("CREATE VIRTUAL"):
        good = _FULL_TEXT.fullmatch(plain) is not None
    elif kind == "index":
        good = _INDEX.fullmatch(plain) is not None
    else:
        good = plain.upper().startswith("CREATE TABLE") and not _EXPRESSION.search(plain)
    if not good:
        raise RefusedError(f"{DATABASE} has the {shown}, which is not of the form that chromadb creates")


def check_vectors(folder: Path) -> None:
    """Check that the files of each vector segment fit together, since a wrong offset in them would crash chromadb.

    Raises:
        RefusedError: they do not; the message names the file.
    """
    for header in sorted(folder.glob("*/header.bin")):
        try:
            _check_segment(header.parent, header.read_bytes())
        except (OSError, ValueError) as error:
            raise RefusedError(f"the vector segment {header.parent.name} cannot be read: {error}") from error


def _check_segment(folder: Path, header: bytes) -> None:
    name = folder.name

    def require(holds: bool | np.bool_, what: str) -> None:
        if not holds:
            raise RefusedError(f"the vector segment {name} is damaged: {what}")

    require(len(header) == HEADER.size, "header.bin has another length")
    fields = HEADER.unpack(header)
    _, start, capacity, count, size, label, vector, level, entry, most, most0 = fields[:11]
    data = (
        np.memmap(folder / "data_level0.bin", np.uint8, "r") if capacity and count else np.empty(0, np.uint8)
    )
    require(start == 0 and count <= capacity, "header.bin has wrong counts")
    require(0 < most <= most0 <= 2**16 and -1 <= level <= _LEVELS, "header.bin has wrong levels")
    require(vector == 4 + 4 * most0 and vector < label and label + 8 == size, "header.bin has wrong offsets")
    require((label - vector) % 4 == 0 and label - vector <= 2**20, "header.bin has wrong dimensions")
    if not count:
        return
    require(len(data) >= count * size and len(data) <= capacity * size, "data_level0.bin has another length")
    require(entry < count, "the entry point is no element")
    elements = data[: count * size].reshape(count, size)
    links = np.ascontiguousarray(elements[:, :vector]).view(np.uint32)
    sizes = links[:, 0] & 0xFFFF
    require((sizes <= most0).all(), "an element has more links than allowed")
    used = np.arange(most0)[None, :] < sizes[:, None]
    require((links[:, 1:][used] < count).all(), "a link leads to no element")
    # length.bin is not read: chromadb leaves it uninitialized.
    _check_upper(
        (folder / "link_lists.bin").read_bytes(), count=count, most=most, level=level, require=require
    )


def _check_upper(upper: bytes, *, count: int, most: int, level: int, require: Require) -> None:
    """Check the links above level 0: for each element its length in bytes, and a block for each of its levels."""
    block, at = 4 + 4 * most, 0
    pieces = []
    for _ in range(count):
        require(at + 4 <= len(upper), "link_lists.bin has another length")
        length = int.from_bytes(upper[at : at + 4], "little")
        at += 4
        if length:
            require(length % block == 0 and length // block <= level, "an element is on too high a level")
            require(at + length <= len(upper), "link_lists.bin has another length")
            pieces.append(upper[at : at + length])
            at += length
    require(at == len(upper), "link_lists.bin has another length")
    links = np.frombuffer(b"".join(pieces), np.uint32).reshape(-1, 1 + most)
    sizes = links[:, 0] & 0xFFFF
    require((sizes <= most).all(), "an element has more links than allowed")
    used = np.arange(most)[None, :] < sizes[:, None]
    require((links[:, 1:][used] < count).all(), "a link leads to no element")
