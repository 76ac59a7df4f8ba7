#!/usr/bin/env bash
# Prints the interpreter to use: $1 where given, else the newest of python3.13, 3.12, 3.11 that really starts
# (a pyenv shim may exist and not start; pyenv's own versions are looked at too).
set -u
starts() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
if [ -n "${1:-}" ]; then
  starts "$1" && { echo "$1"; exit 0; }
  echo "error: PYTHON=$1 does not start, or is older than 3.11" >&2; exit 1
fi
for minor in 13 12 11; do
  for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.$minor.*/bin/python3; do
    command -v "$candidate" > /dev/null 2>&1 && starts "$candidate" && { command -v "$candidate"; exit 0; }
  done
done
starts python3 && { command -v python3; exit 0; }
echo "error: no Python of at least 3.11 starts here: install one, or give its path as PYTHON=" >&2
exit 1
