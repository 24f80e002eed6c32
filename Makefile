# make setup, then make check test

PYTHON ?= python3
VENV ?= .venv
# the active environment, or else the one that `make setup` made
BIN := $(if $(VIRTUAL_ENV),,$(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/))

.PHONY: help setup test check docs bench

help:
	@echo "setup  make $(VENV) with all that the tests need, and the git hook"
	@echo "test   run the tests"
	@echo "check  format, lint, types, import rules, spelling, generated texts"
	@echo "docs   write what is generated from the nodes' schemas"
	@echo "bench  list the benchmarks"

setup:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -r requirements-dev.txt
	$(VENV)/bin/pre-commit install

test:
	$(BIN)python -m pytest -n 3 --dist loadfile

check:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)python tools/check_types.py
	$(BIN)lint-imports
	$(BIN)codespell
	$(BIN)python tools/node_texts.py --check

docs:
	$(BIN)python tools/node_texts.py

bench:
	$(BIN)python -m benchmarks
