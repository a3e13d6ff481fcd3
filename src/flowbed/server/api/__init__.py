"""The routes of the HTTP API and the shapes they take and give."""
