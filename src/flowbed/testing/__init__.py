"""What Flowbed is tested with, for those who extend it: contract tests, faults, a clock, a seeded embedder."""
