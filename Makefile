PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: facts demo test lint docs docs-serve soak fuzz

demo: $(READY)
	$(BIN)/raymia demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

# Every fault, ten times over, and commands stopped at random moments: about three hours on two cores.
soak: $(READY)
	for round in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/python -m pytest tests/faults || exit 1; done
	for signal in SIGKILL SIGTERM SIGINT; do $(BIN)/python -m tests.faults.kills --signal $$signal || exit 1; done
	$(BIN)/python -m tests.faults.stopped

# Inputs that are made up and damaged by a seed, at every edge to files of others, for an hour; FUZZ=--seed=7 for others.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: $(READY) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The documents as pages in site/. A link that leads nowhere, or to a heading that is gone, is an error.
docs: $(READY)
	$(BIN)/mkdocs build --strict

# The same on http://127.0.0.1:8000, built anew whenever a document is saved.
docs-serve: $(READY)
	$(BIN)/mkdocs serve

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# What docs/attacks.md states of the attacks, written from the code.
facts: $(READY)
	$(BIN)/python docs/facts.py
