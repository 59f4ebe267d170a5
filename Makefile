# `make demo` and `make test` need python3 (3.11 or later) and a C/C++ compiler, nothing else.
# llama-cpp-python is compiled once, which takes some minutes; pip keeps the wheel.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := tests/constraints.txt

# GCC's ldtilecfg does not wait for the stores that fill its operand, so that llama.cpp's AMX
# kernels fault on the first prompt. Servers have AMX, laptops and phones do not: built without it.
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
AMX_FLAGS := $(shell grep -qsw amx_tile /proc/cpuinfo && $(CC) $(NO_AMX) -E -xc /dev/null >/dev/null 2>&1 \
  && echo '$(NO_AMX)')
# Vision is not used; without it the library builds in three quarters of the time.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF $(if $(AMX_FLAGS),'-DCMAKE_C_FLAGS=$(AMX_FLAGS)' '-DCMAKE_CXX_FLAGS=$(AMX_FLAGS)')

# pip keys its wheels by version alone: one that was built with those kernels is built again.
define without_amx
$(if $(AMX_FLAGS),@$(BIN)/python -c "import sys; from llmedge.runtime.library import library_info; \
  sys.exit('AMX_INT8' in library_info().features)" || { $(BIN)/python -m pip cache remove --quiet llama_cpp_python; \
  $(PIP) -c $(CONSTRAINTS) --force-reinstall --no-deps llama-cpp-python; })
endef

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
	$(without_amx)
	@touch $@
$(VENV)/.installed-demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -c $(CONSTRAINTS) -e '.[demo]'
	$(without_amx)
	@touch $@ $(VENV)/.installed
$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -c $(CONSTRAINTS) -e '.[demo,dev]'
	$(without_amx)
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
