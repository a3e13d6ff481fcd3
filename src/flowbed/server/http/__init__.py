"""HTTP below the routes: connections, the gate before every route, errors, bodies and headers."""
