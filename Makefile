# `make demo` and `make test` need python3 (3.11 or later) and a C/C++ compiler, nothing else.
# llama-cpp-python is compiled once, which takes some minutes; pip keeps the wheel.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := tests/constraints.txt

# Vision is not used; without it the library builds in three quarters of the time.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF

.PHONY: install demo test test-all check clean

install: $(VENV)/.installed
demo: $(VENV)/.installed-demo
	$(BIN)/llmedge demo
test: $(VENV)/.installed-dev
	$(BIN)/python scripts/check
test-all: $(VENV)/.installed-dev
	$(BIN)/python scripts/check --all
check: test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or later is needed: make PYTHON=python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -c $(CONSTRAINTS) -e .
	@touch $@
$(VENV)/.installed-demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -c $(CONSTRAINTS) -e '.[demo]'
	@touch $@ $(VENV)/.installed
$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -c $(CONSTRAINTS) -e '.[demo,dev]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
