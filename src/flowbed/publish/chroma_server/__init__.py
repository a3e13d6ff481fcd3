"""Collections on running Chroma servers: a client of their HTTP API, and what keeps a collection in step."""
