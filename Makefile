# Everything on a fresh machine with Python ≥ 3.11: `make demo` and `make test`.
# PYTHON=… sets the interpreter, EXTRAS=dev,cuda the extras, VENV=… the folder of the environment.

SHELL := /bin/bash
VENV ?= .venv
EXTRAS ?= dev
DEMO ?= runs/demo
DEMO_ARGUMENTS ?=
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed-$(subst $(,),-,$(EXTRAS))

# Without these variables glibc returns XLA's large CPU buffers to the system after each step, and requests them again in the
# next step. A step of the demo takes 0.15 s with them, and 0.23 s without.
export MALLOC_TOP_PAD_ := 268435456
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 4294967296
export MALLOC_ARENA_MAX := 1

.PHONY: venv demo test test-all lint sabotage clean

venv: $(STAMP)

$(STAMP): setup.py constraints.txt .ci/find_python.sh
	bash .ci/find_python.sh "$(PYTHON)" > .python-found
	test -x $(RUN) || "$$(cat .python-found)" -m venv $(VENV)
	rm -f .python-found
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: venv
	rm -rf $(DEMO)
	$(RUN) -m genre_jax.prepare --dataset=synthetic_hard --sample_rate=8000 --data_dir=data
	$(RUN) -m genre_jax.main --config=configs/bytenet.py:demo --workdir=$(DEMO) $(DEMO_ARGUMENTS)
	$(RUN) -m genre_jax.datasets.listen --dataset=synthetic_hard --genre=waltz --output=$(DEMO)/waltz.wav
	$(RUN) -m genre_jax.tag --workdir=$(DEMO) $(DEMO)/waltz.wav

lint: venv
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The tests spend most of their time compiling. Without LLVM's optimisations a network compiles two to three times faster.
# `test-all` and `demo` use the optimisations.
test: lint
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" $(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint
	$(RUN) -m pytest

sabotage: venv
	$(RUN) tests/sabotage/run.py

clean:
	rm -rf $(VENV) runs data build .cache *.egg-info
