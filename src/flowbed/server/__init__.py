"""The HTTP server: OpenAI's embeddings, files and batches API, and Flowbed's search, health and administration."""
