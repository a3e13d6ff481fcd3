"""How the texts of a run get their vectors: now (`realtime`)."""
