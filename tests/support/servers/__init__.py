"""Real servers that tests start: Postgres, Redis, S3, Chroma."""
