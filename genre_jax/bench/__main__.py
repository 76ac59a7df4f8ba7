"""`python -m genre_jax.bench NAME [--flags]`."""

import importlib
import sys

from genre_jax import console
from genre_jax.bench import BENCHMARKS


def main() -> None:
    """Run the benchmark that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        console.fail(console.unknown("benchmark", name, BENCHMARKS))
    benchmark = importlib.import_module(BENCHMARKS[name])
    parser = getattr(benchmark, "parse_flags", None)
    console.run(benchmark.main, parser, keep_programs=False)  # a program of an earlier run would falsify the compile time


if __name__ == "__main__":
    main()
