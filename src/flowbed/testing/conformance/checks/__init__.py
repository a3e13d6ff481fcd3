"""The checks of a server, one module for each group."""
