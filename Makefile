# Each target makes the virtual environment first, if there is none or pyproject.toml has changed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FLOOR = .venv-floor
READY = $(VENV)/.installed

.PHONY: demo test test-slow test-floor bench cards graph quality style

demo: $(READY)  ## a published model answers; PaCo and two baselines train on the built-in images and are compared
	$(BIN)/python training/demo.py

# Bytecode is kept, even where the environment says otherwise: each process would compile tests and package anew.
test: $(READY)  ## the quick tests, a process for each core
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --durations 10

test-slow: $(READY)  ## the tests that take minutes, two at a time
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow -n 2 --dist worksteal --durations 10

test-floor:  ## the quick tests and a round trip of the commands with the oldest releases that pyproject.toml allows
	$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) and 'constraints/floor.txt is for Python 3.11: give PYTHON=python3.11')"
	$(PYTHON) -m venv --clear $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --upgrade pip
	$(FLOOR)/bin/python -m pip install --quiet --editable ".[test]" --constraint constraints/floor.txt
	$(FLOOR)/bin/python -m pip check
	HF_HUB_OFFLINE=1 $(FLOOR)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile
	HF_HUB_OFFLINE=1 $(FLOOR)/bin/python -m pytest -m slow tests/test_round_trip.py
	constraints/fingerprint > constraints/tested.sha256
	rm -r $(FLOOR)  # five gigabytes

bench: $(READY)  ## ours against a plain implementation, on a machine that does nothing else
	$(BIN)/python -m benchmarks.bench

cards: $(READY)  ## render model_cards/ from the recipes
	$(BIN)/paco-hf card --recipes model_cards

graph: $(READY)  ## draw which package imports which, for CONTRIBUTING.md
	$(BIN)/python docs/import_graph.py

quality: $(READY)  ## lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(READY)  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)
