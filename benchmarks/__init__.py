"""What Flowbed is measured by; `python -m benchmarks` measures it all and writes docs/benchmarks.md."""
