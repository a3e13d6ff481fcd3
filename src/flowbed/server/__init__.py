"""The HTTP API: OpenAI's embeddings, field by field, and Flowbed's own search, health and administration."""
