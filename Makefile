# Everything a newcomer runs. Each target prints the commands it runs; nothing else happens.
PYTHON ?= python3
# The torch to install first. Plain `torch` takes the newest build, which on Linux brings several GB of CUDA libraries;
# `make demo TORCH="torch==2.13.0"` takes another one, for example a CPU build that your package index offers.
TORCH ?= torch
BIN = .venv/bin
# Where it is set, every process that a test starts compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-exhaustive lint types fix wheel clean

demo: .venv/offline
	$(BIN)/nlp-transfer adapt

test: .venv/test
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-slow: .venv/test
	$(BIN)/pytest -m "slow and not exhaustive" --numprocesses 3 --dist worksteal

test-exhaustive: .venv/test
	$(BIN)/pytest -m exhaustive --numprocesses 2 --dist worksteal

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/mypy

fix: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What an earlier build left in build/ would go into the wheel, deleted files too.
wheel: .venv/test
	rm -rf build
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/offline: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[offline]"
	touch $@

.venv/test: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@ .venv/offline

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
