"""`python -m genre_jax.bench NAME [--flags]`."""

import importlib
import sys

from absl import flags

from genre_jax import console
from genre_jax.bench import BENCHMARKS

HELP = {"--help", "-help", "-h"}


def main() -> None:
    """Run the benchmark that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if not name or name in HELP:
        console.say(f"{(__doc__ or '').strip()}\n\nNAME is one of {', '.join(sorted(BENCHMARKS))}; NAME --help explains it.")
        sys.exit(0 if name else 1)
    if name not in BENCHMARKS:
        console.fail(console.unknown("benchmark", name, BENCHMARKS))
    benchmark = importlib.import_module(BENCHMARKS[name])
    if not HELP.isdisjoint(sys.argv):
        console.say(f"{(benchmark.__doc__ or '').strip()}\n{flags.FLAGS.module_help(benchmark)}")
        return
    parser = getattr(benchmark, "parse_flags", None)
    console.run(benchmark.main, parser, keep_programs=False)  # a program of an earlier run would falsify the compile time


if __name__ == "__main__":
    main()
