"""What `python -m benchmarks.speed.gpu` measures: a module a subject, and how the parts run."""
