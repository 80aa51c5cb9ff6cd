"""What `scripts/benchmark.py` measures: our code and a plain implementation of the same equations, in one run."""
