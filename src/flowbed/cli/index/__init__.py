"""The commands that search a project's index, publish it, look after it and report on it."""
