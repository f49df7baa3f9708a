# temline: everything a developer runs. Each target makes .venv first if it is not there.

PYTHON ?= python3
BIN := .venv/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint format bench accuracy clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/installed ## acquire and stitch a montage of the virtual section; Ctrl-C ends it
	@$(BIN)/temline demo $(ARGS)

test: .venv/installed-test ## the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed-lint ## ruff, import-linter and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

format: .venv/installed-lint ## bring the code into the one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/installed ## every benchmark, one after the other
	@set -e; for file in benchmarks/[a-z]*.py; do \
		name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

ACCURACY := verdicts lens_accuracy growing_montage
accuracy: .venv/installed ## accuracy against the virtual microscope's truth
	@set -e; for name in $(ACCURACY); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean: ## remove the environment, caches and everything that was acquired here
	@rm -rf .venv .venv-peers .temline build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"temline needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml | .venv/bin/python
	@echo "Installing temline into .venv (a few minutes the first time)"
	@$(PIP) -e .
	@touch $@

.venv/installed-%: setup.cfg pyproject.toml | .venv/bin/python
	@echo "Installing temline with what '$*' needs into .venv (a few minutes the first time)"
	@$(PIP) -e '.[$*]'
	@touch $@ .venv/installed
