"""The commands that fetch, embed and carry out work."""
