"""The one HTTP client: retries, limits and redaction, shared by providers and sources."""
