"""The Batch APIs of the simulators: files, jobs, and the lines of each vendor."""
