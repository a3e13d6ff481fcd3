"""HTTP below the routes: connections, the gate before every route, request bodies, errors and headers."""
