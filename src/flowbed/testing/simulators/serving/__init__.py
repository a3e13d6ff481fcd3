"""How simulators are served: over ASGI, in a thread or in a process of their own, with faults on demand."""
