"""Embedding providers that are called over HTTP, a module each."""
