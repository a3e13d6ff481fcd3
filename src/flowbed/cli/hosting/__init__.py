"""The commands that serve a project, and that bring it to AWS."""
