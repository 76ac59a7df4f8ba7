"""What the launchers of several hosts in Python share: their command line has main's arguments after `--`."""

from absl import app

from genre_jax.console import UserError


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags before `--`. Returns the other arguments, with `--` and what follows it at the end.

    With `--help` it prints the docstring of the launcher and the flags, and exits 0.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    if "--help" in argv[:end]:  # absl would exit with 1
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    return app.parse_flags_with_usage(argv[:end]) + argv[end:]


def of_main(argv: list[str]) -> list[str]:
    """Returns main's arguments in what `parse_flags` has returned. Raises `UserError` if there are none, or others."""
    if len(argv) > 1 and argv[1] != "--":
        raise UserError(f"unexpected argument {argv[1]!r}: write the arguments of genre_jax.main after --")
    if len(argv) < 3:
        raise UserError("the arguments of genre_jax.main are missing: write them after --, such as -- --config=bytenet:demo")
    return argv[2:]


def need(**values: object) -> None:
    """Raise `UserError` unless each of these flags has a value."""
    missing = [f"--{name}" for name, value in values.items() if not value]
    if missing:
        raise UserError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed")
