# rlvis: two commands to begin with, `make demo` and `make test`; `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first that runs and is 3.11 or 3.12 (a name on the PATH may be a version manager's empty shim).
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU-only torch must take torchvision from the same index: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
WORKERS ?= auto
ARGS ?=

.PHONY: help demo test test-slow test-gpu lint format bench bench-gpu lock clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "rlvis needs Python 3.11 or 3.12 and found neither: type make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install -q --index-url $(TORCH_INDEX) $$(grep -E '^(torch|torchvision)==' constraints.txt)
	grep -vE '^(torch|torchvision|triton|nvidia-|cuda-)' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt -e '.[dev]'
else
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
endif
	@touch $@

demo: $(VENV)/.installed  ## set up, train the embedded default on this machine (about a minute of RL), say what it did to held-out prompts
	$(BIN)/python train.py eval=shapes eval.every=60 eval.samples=4 $(ARGS)

# A worker a core, as many as memory holds (tests/conftest.py); WORKERS=0: all in one process, for a debugger.
test: $(VENV)/.installed  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.installed  ## the slow matrices
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: $(VENV)/.installed  ## what needs a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(VENV)/.installed  ## ruff, import-linter (layers), mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.installed  ## let ruff rewrite
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed  ## ratios over bare loops, bytes of a step, cost per sample, maps (CPU); writes benchmarks/results/
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.maps $(ARGS)

bench-gpu: $(VENV)/.installed  ## the same on a GPU
	$(BIN)/python -m benchmarks.overhead --device cuda $(ARGS)

lock:  ## resolve constraints.txt anew from the public index (needs uv)
	uv pip compile --universal -p 3.11 --extra dev --no-header --no-annotate --default-index https://pypi.org/simple pyproject.toml -o constraints.txt

clean:  ## remove the environment and caches; outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
