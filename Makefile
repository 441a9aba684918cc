# make demo   trains a soft prompt on real reviews and prints what it gained
# make test   runs the tests
# make docs   builds the pages of docs/ into docs/_build/html
# make notebooks   runs the notebooks and keeps their outputs
#
# They set themselves up in .venv and need Python 3.11 to 3.13 and nothing else. A second call finds
# .venv ready. Choose an interpreter with `make demo PYTHON=/path/to/python3.12`.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# What is set up here has the versions of constraints.txt, with which the tests passed.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTHON ?=

.PHONY: help demo test test-slow test-all lint setup-demo setup-test setup-reference docs notebooks constraints clean
.NOTPARALLEL:

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

# glibc's malloc takes huge pages on request, which makes a step on Linux a tenth faster.
demo: setup-demo
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/jax-prompt train --gin_file=demo.gin

# As many processes as there are cores; those of `test-slow` start processes of their own.
test: setup-test
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile

test-slow: setup-test
	$(BIN)/python -m pytest -m slow

test-all: setup-test
	$(BIN)/python -m pytest

lint: setup-test
	$(BIN)/ruff check .

# Offline; a warning or a dead link is an error.
docs: $(VENV)/.docs
	JAX_PLATFORMS=cpu $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

# From cold kernels, with the extras that they ask for; half an hour.
notebooks: setup-reference
	JAX_PLATFORMS=cpu $(BIN)/python notebooks/run.py

setup-demo: $(VENV)/.demo
setup-test: $(VENV)/.test
# What the tests use where it is there: PyTorch's T5 and PEFT to compare with, libtpu to compile for
# TPUs. PyTorch's version is named before anything that depends on it, which would bring the newest
# with gigabytes of CUDA.
setup-reference: $(VENV)/.reference

# Each stamp is a finished installation; it is made again when the list of dependencies changes.
$(VENV)/.demo $(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "Setting up $(VENV) for 'make $*': 1 to 5 minutes, once ..."
	@start=$$SECONDS; $(PIP) --editable '.[$*]' && echo "Set-up took $$((SECONDS - start)) s."
	@touch $@

$(VENV)/.reference: pyproject.toml constraints.txt | $(VENV)/.test
	@echo "Setting up PyTorch, PEFT and libtpu in $(VENV) ..."
	@start=$$SECONDS; $(PIP) torch==2.13.0 && $(PIP) 'peft>=0.21,<0.22' --editable '.[tpu]' \
	  && echo "Set-up took $$((SECONDS - start)) s."
	@touch $@

# An environment that is there and fits is used; one that an interrupted set-up left is completed.
$(VENV)/.python:
	@fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	if $(BIN)/python -c "$$fits" 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1; \
	then touch $@; exit 0; fi; \
	for python in $(if $(PYTHON),'$(PYTHON)',python3.11 python3.12 python3.13 python3 python); do \
	  "$$python" -c "$$fits" 2>/dev/null || continue; \
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$$python cannot make virtual environments: install its venv module (Debian and" \
	      "Ubuntu: apt install python3-venv), or choose another with make PYTHON=..." >&2; \
	    exit 2; }; \
	  "$$python" -m venv $(VENV) && touch $@ && exit 0; \
	  exit 2; \
	done; \
	echo "$(if $(PYTHON),PYTHON=$(PYTHON) is not,there is no) Python 3.11, 3.12 or 3.13: install" \
	  "one, or name one, such as make demo PYTHON=/path/to/python3.11" >&2; exit 2

# Upgrades the tested versions, on purpose: run all tests after it, then commit both files.
UV_COMPILE := $(BIN)/uv pip compile --quiet --no-annotate --python-version 3.11
constraints: setup-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --upgrade --universal --all-extras --output-file constraints.txt \
	  --custom-compile-command 'make constraints' pyproject.toml
	set -o pipefail; cd tpu_scripts && { grep '^#' requirements-tpu.txt; echo hatchling \
	  | ../$(UV_COMPILE) --no-header --python-platform x86_64-manylinux_2_31 \
	    --constraint ../constraints.txt --extra tpu --extra onnx --extra seqio ../pyproject.toml -; \
	} >requirements.new && mv requirements.new requirements-tpu.txt

clean:
	rm -rf $(VENV) build dist docs/_build docs/reference docs/notebooks .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
