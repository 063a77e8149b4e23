# Set-up, demonstration and tests. Needs Python 3.11 or newer and make; everything else goes into
# a virtual environment in this directory.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DEMO ?= demo

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install demo cluster-demo test lint clean

help: ## Show what can be made
	@echo "make TARGET, with TARGET one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

install: $(INSTALLED) ## Install into $(VENV)

# The stamp makes the second run instant; a change of dependencies makes it stale.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11. Use: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made; on Debian: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(INSTALLED) ## Simulate a small observation, convert and verify it
	@rm -rf $(DEMO)/incoming $(DEMO)/products
	$(BIN)/contimg-dask simulate $(DEMO)/incoming --groups 1 --subbands 16 --antennas 12 --integrations 4 --channels 48
	$(BIN)/contimg-dask convert $(DEMO)/incoming $(DEMO)/products
	@product=$$(find $(DEMO)/products/science -mindepth 2 -maxdepth 2 -name '*.ms' -print -quit); \
	test -n "$$product" || { echo "No product was published." >&2; exit 1; }; \
	echo "$(BIN)/contimg-dask verify $$product --input $(DEMO)/incoming"; \
	$(BIN)/contimg-dask verify "$$product" --input $(DEMO)/incoming; \
	echo; \
	echo "The product is a CASA Measurement Set, equal to its input in every value:"; \
	echo "    $$product"; \
	echo "What to do next:"; \
	echo "    look at it:         $(BIN)/python -c 'from casacore.tables import table; print(table(\"$$product\"))'"; \
	echo "    image one field:    wsclean -reorder -data-column DATA -field 0 -size 1024 1024 -scale 5asec -name $(DEMO)/field0 $$product"; \
	echo "    convert your own:   $(BIN)/contimg-dask convert INPUT OUTPUT    (first with --dry-run)"; \
	echo "    check this machine: $(BIN)/contimg-dask doctor"

cluster-demo: $(INSTALLED) ## Bring up several hosts on this machine, lose two, publish every group; as root
	$(BIN)/python -m cluster.demo --directory $(DEMO)/cluster

lint: $(INSTALLED) ## Check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint ## Check and run all the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

clean: ## Remove the demonstration, caches and build files; the environment stays
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
