"""Chroma's HTTP API, version 2, for its unchanged clients."""

from flowbed.server.chroma import collections, creation, records, system, writes

# The last one also has the routes for paths that no other has.
CHROMA_ROUTES = (records.routes, writes.routes, collections.routes, creation.routes, system.routes)
