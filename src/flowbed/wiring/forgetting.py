"""The places of a project, besides its store and its ledger, from which rows are forgotten."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, Rejected
from flowbed.maintenance.forget.erase import Places, forget
from flowbed.maintenance.forget.find import find, make_request
from flowbed.sources.apis.raw_answers import RAW
from flowbed.wiring import opening
from flowbed.wiring.publications import configured
from flowbed.wiring.scratch import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from flowbed.lanes.contexts import RunContext
    from flowbed.maintenance.forget import Receipt
    from flowbed.publish import PublishContext
    from flowbed.settings import Settings
    from flowbed.wiring.models import Embedders

SALT_BYTES, ID_BYTES = 32, 8


def new_salt() -> str:
    """Return random hex digits for the digests of what was forgotten."""
    return secrets.token_hex(SALT_BYTES)


def places_of(
    folder: Path,
    config: Settings,
    embedders: Embedders,
    publish_context: Callable[[str], PublishContext],
) -> Places:
    """Return the caches, local folders and publications of the project in a folder."""
    hidden = folder / opening.HIDDEN
    return Places(
        tiers=embedders.forgetful_tiers(),
        published=hidden / "publish",
        answers=folder / RAW,
        scratch=folder / SCRATCH,
        publications=configured(config),
        publish_context=publish_context,
    )


async def forget_rows(
    context: RunContext,
    places: Places,
    embedders: Embedders,
    *,
    ids: Sequence[str],
    documents: Sequence[str],
    where: Mapping[str, Any] | None,
    collection: str | None,
    most: int | None,
) -> Receipt:
    """Forget what is named, unless it is more than `most` rows.

    Raises:
        NotFound, Rejected: as `Flowbed.forget`.
    """
    found, named = await find(context, ids=ids, documents=documents, where=where, collection=collection)
    if most is not None and len(named.chunks) > most:
        raise Rejected(
            f"{len(named.chunks):,} rows would be forgotten, more than {most:,}: look at what that is, then allow more"
            " with --yes, or `most`"
        )
    spaces = []
    with contextlib.suppress(
        Misconfigured
    ):  # without a key or weights, the collections say which spaces there are
        spaces.append((await embedders.live()).space)
    request = await make_request(context, found, spaces=spaces, id_=secrets.token_hex(ID_BYTES))
    return await forget(request, context, places, salt=new_salt())
