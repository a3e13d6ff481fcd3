"""Index jobs: what clients ask to be written into a collection, chunked, embedded and stored in the background."""
