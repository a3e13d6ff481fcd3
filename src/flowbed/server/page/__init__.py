"""The page at `/`: its files, and the routes that it reads."""
