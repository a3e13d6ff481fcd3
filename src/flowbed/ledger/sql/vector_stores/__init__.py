"""Vector stores of the server, their files and file batches."""
