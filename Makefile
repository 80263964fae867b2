# make demo, make test, make lint: each makes .venv and installs what it needs.
#
# An interpreter of your choice: make demo PYTHON=python3.12
# Options for pip (another index, the CPU build of torch): the usual PIP_… variables.

VENV := .venv
BIN := $(VENV)/bin
DEMO := demo-out
#: Test processes; each holds torch and takes about 1 GB.
JOBS ?= 2

# The first of these that is new enough and can make virtual environments, unless PYTHON is given.
ifeq ($(origin PYTHON), undefined)
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14 python
else
PYTHONS := $(PYTHON)
endif
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test durability gpu-check lint format clean

help:
	@echo "make demo    install, and run the whole job on the sample faces ($(DEMO)/)"
	@echo "make test    install with the developers' tools, and run the tests"
	@echo "make durability  install with the tools, and kill the job in all the ways of docs/durability.md"
	@echo "make gpu-check  check what runs on a GPU, under the Python that is there, without installing"
	@echo "make lint    ruff and pyright"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove $(VENV), $(DEMO) and caches"

demo: $(VENV)/.installed
	$(BIN)/normpipe demo --output $(DEMO)

# One thread a process: the processes are as many as the cores already.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# An hour, half of it in a store.
durability: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pipeline.durability --kills 200

# Without .venv, which would bring another torch: a bare CUDA machine has its own.
gpu-check:
	python3 benchmarks/gpu_check.py $(GPU_CHECK)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/python -m pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/python -m ruff format .

# Made last, so that half a venv is made anew.
$(VENV)/.made:
	@for python in $(PYTHONS); do \
		if "$$python" -c "$(FITS)" >/dev/null 2>&1; then \
			echo "$$("$$python" --version) makes $(VENV)"; \
			"$$python" -m venv --clear $(VENV) && touch $@; \
			exit; \
		fi; \
	done; \
	echo "normpipe needs Python 3.11 or newer with venv (none of: $(PYTHONS))." \
		"Install it (Debian, Ubuntu: python3 and python3-venv), or name it: make PYTHON=…" >&2; \
	exit 1

# Stamps: made again when pyproject.toml changes. Editable, so that the code needs no reinstalling.
$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
