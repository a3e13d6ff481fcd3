"""Models that run in this process: weights, graphs, batching, and how much of the CPU they may use."""
