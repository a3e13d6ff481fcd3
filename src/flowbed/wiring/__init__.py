"""Opens what the settings name, and joins it: sources, models, contexts, the process."""
