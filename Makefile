# make test   sets up .venv, then lint, types and tests: all that a change has to pass
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help test lint pytest clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

test: lint pytest  ## everything that a change has to pass, from nothing

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pytest: .venv/installed  ## the tests, on all cores
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove the environment and all caches
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
