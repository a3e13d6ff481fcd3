"""Chunks that another program has cut already: they stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from flowbed.chunking.metadata import chunk_metadata
from flowbed.records import Chunk
from flowbed.records.external import external_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.chunking import Rules
    from flowbed.records import Document


def chunk_prepared(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Make a chunk of each item of the document's JSON: `[[ordinal, text, metadata, collection], ...]`.

    An item may end with what is sent to the model, where that is not its text.
    """
    owner = external_owner(rules.source)
    shown = replace(rules, source=owner)
    return [
        Chunk(
            id=f"{owner}#{document.id}#{ordinal:05d}",
            collection=collection or rules.collections[0],
            document=document.id,
            ordinal=ordinal,
            text=text,
            sent=sent[0] if sent else text,
            metadata=chunk_metadata(replace(document, metadata=metadata), shown, {}),
            tokens=count(sent[0] if sent else text),
        )
        for ordinal, text, metadata, collection, *sent in orjson.loads(document.text)
    ]
