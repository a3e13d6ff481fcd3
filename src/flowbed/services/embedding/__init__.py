"""Embeddings as a service: inputs checked, quotas reserved, texts embedded by a model that is served."""
