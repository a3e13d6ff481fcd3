"""Services of the server and its workers: keys, quotas, models, embeddings, search, files and batch jobs. No HTTP."""
