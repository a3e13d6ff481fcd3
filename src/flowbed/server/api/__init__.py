"""The routes of the HTTP API, a module each, and the schemas of their requests and responses."""
