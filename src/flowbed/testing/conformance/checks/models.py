"""The models of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.conformance.checks.refusals import UNKNOWN

if TYPE_CHECKING:
    from flowbed.testing.conformance.client import Client


async def listed(client: Client) -> None:
    """Models are listed with id, creation time and owner."""
    sdk_answer = await client.ask("models.list")
    kind = sdk_answer.exchange.fields.get("object")
    client.require(kind == "list", f"`object` is {kind!r}")
    client.require(sdk_answer.parsed.data, "no model is listed")
    for row in sdk_answer.exchange.rows:
        client.require(row.get("object") == "model", f"`object` of {row} is not model")
        client.require(row.get("id") and isinstance(row["id"], str), f"{row} has no id")
        client.require(type(row.get("created")) is int, f"`created` of {row} is not a number")
        client.require(isinstance(row.get("owned_by"), str), f"`owned_by` of {row} is not a text")
    ids = [model.id for model in sdk_answer.parsed.data]
    client.require(len(set(ids)) == len(ids), f"a model is listed twice: {ids}")


async def retrieved(client: Client) -> None:
    """A listed model can be retrieved, and is the same."""
    models = (await client.ask("models.list")).parsed.data
    client.require(models, "no model is listed")
    for model in models:
        again = (await client.ask("models.retrieve", model.id)).parsed
        client.require(again == model, f"{model.id} differs when it is retrieved")


async def embeds(client: Client) -> None:
    """The tested model can be retrieved by its name."""
    model = (await client.ask("models.retrieve", client.target.model)).parsed
    client.require(model.object == "model", f"`object` is {model.object!r}")


async def unknown(client: Client) -> None:
    """Retrieving an unknown model is refused with status 404 and the code model_not_found."""
    for name in (UNKNOWN, f"organization%2F{UNKNOWN}"):
        error = await client.refused_raw(404, None, method="GET", path=f"/models/{name}")
        client.require(error["code"] == "model_not_found", f"the code is {error['code']!r}")


CHECKS = (listed, retrieved, embeds, unknown)
