"""Chroma's HTTP API, version 2, for its unchanged clients."""
