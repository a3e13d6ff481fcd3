"""The Batch API: jobs over stored files, and the worker that answers their lines."""
