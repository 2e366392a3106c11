# make demo   sets up .venv, then trains, evaluates and reports: outputs/demo/report.html
# make test   sets up .venv, then runs lint, types and tests: the full CI
PYTHON ?= python3
BIN := .venv/bin
OFFLINE := HF_HUB_OFFLINE=1

.PHONY: help demo test test-all coverage stress lint pytest docs benchmark gpu-check gpu-packages clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/installed  ## trains a Flamingo on the synthetic benchmark, evaluates it and draws its curve: five minutes on 2 cores
	$(OFFLINE) $(BIN)/python -m experiments.train experiment=demo
	$(OFFLINE) $(BIN)/python -m experiments.evaluate run=outputs/demo
	$(OFFLINE) $(BIN)/python -m experiments.report run=outputs/demo
	@echo "Open outputs/demo/report.html"

test: lint pytest  ## the full CI: lint, types and tests

lint: .venv/installed  ## style, types and names of tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.names
	$(BIN)/mypy

pytest: .venv/installed  ## the tests, on all cores
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest -n auto --dist worksteal

test-all: lint .venv/installed  ## the tests with their full matrices: up to 45 minutes
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest -n auto --dist worksteal -m ''

coverage: .venv/installed  ## the number of tests and the lines that they run
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest -n auto --dist worksteal --cov=flamingo --cov=experiments
	$(OFFLINE) $(BIN)/pytest --collect-only | tail -1

docs: .venv/installed  ## the documentation as a site: site/index.html; a broken link or reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open site/index.html; the search needs a server: $(BIN)/python -m http.server --directory site"

stress: .venv/installed  ## kills, two processes at once, full disks, malformed files: up to 20 minutes
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m tests.stress

benchmark: .venv/installed .peers/installed  ## speed and memory against peers: an hour or two on 2 idle cores
	$(OFFLINE) $(BIN)/python -m experiments.benchmark

gpu-check:  ## everything on one GPU, with PYTHON and its packages as they are: outputs/gpu/report.md, in 8 minutes
	PYTHONPATH=.gpu_packages $(OFFLINE) $(PYTHON) -m experiments.gpu_check

gpu-packages:  ## OpenFlamingo's code for gpu-check, in .gpu_packages: copy it to the GPU's machine
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps --target .gpu_packages \
		open-flamingo==2.0.1 einops-exts==0.0.4

.peers/installed: experiments/benchmark/peers.txt
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --disable-pip-version-check --quiet --requirement $<
	.peers/bin/pip install --disable-pip-version-check --quiet --no-deps open-flamingo==2.0.1
	touch $@

.loader_peers/installed: experiments/benchmark/loader_peers.txt
	$(PYTHON) -m venv .loader_peers
	.loader_peers/bin/pip install --disable-pip-version-check --quiet --requirement $<
	touch $@

.venv/installed: setup.py setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@# The tests compare with OpenFlamingo's own code; what it says it depends on is of 2023.
	$(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt --no-deps open-flamingo
	touch $@

clean:  ## remove the environment and all caches
	rm -rf .venv .peers .loader_peers .gpu_packages .pytest_cache .ruff_cache .mypy_cache *.egg-info
