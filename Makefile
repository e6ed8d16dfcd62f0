# `make demo` and `make test` are all that a fresh machine needs: Python 3.11 or newer, git and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint types tests format clean

demo: .venv/ready
	@rm -rf build/demo
	@$(BIN)/rowmill run jobs/sentiment.toml --offline --tier 1 --runs-dir build/demo --output build/demo/sentiment.parquet --show 8

test: lint types tests

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready-dev
	$(BIN)/mypy

tests: .venv/ready-dev
	$(BIN)/pytest

format: .venv/ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rowmill needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up a virtual environment in .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv

.venv/ready: .venv/bin/python pyproject.toml constraints.txt
	@$(PIP) --editable .
	@touch $@

.venv/ready-dev: .venv/bin/python pyproject.toml constraints.txt
	@$(PIP) --editable '.[dev]'
	@touch .venv/ready $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
