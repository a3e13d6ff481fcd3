"""Models that run in this process: weights, graphs, batching, and the priority of background work."""
