"""/v1/vector_stores: stores, the files attached to them, and searches, compatible with OpenAI's API."""

from __future__ import annotations

from flowbed.server.api.vector_stores.files import batch_routes, file_routes
from flowbed.server.api.vector_stores.stores import store_routes

STORE_ROUTES = (store_routes, file_routes, batch_routes)
