"""Public test tools for those who extend Flowbed: contract tests, simulators, faults, a clock, a seeded embedder."""
