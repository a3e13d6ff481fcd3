"""How the texts of a run get their vectors: `realtime` calls the model now, `batch/` submits to a Batch API."""
