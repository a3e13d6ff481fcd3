"""Tools for agents over the Model Context Protocol: search, read around a hit, and ask about the state of a project."""
