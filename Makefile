# Each target makes the virtual environment first, if there is none or pyproject.toml has changed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FLOOR = .venv-floor
READY = $(VENV)/.installed

.PHONY: demo test test-slow test-floor bench cards docs docs-serve graph pictures notebook project-url quality style release-check

demo: $(READY)  ## a published model answers; PaCo and two baselines train on the built-in images and are compared
	$(BIN)/python training/demo.py

# A quick test that takes ten minutes hangs: it ends its process with the stacks of all threads.
HANGS = -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

# Bytecode is kept, even where the environment says otherwise: each process would compile tests and package anew.
test: $(READY)  ## the quick tests, a process for each core
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --durations 10 $(HANGS)

test-slow: $(READY)  ## the tests that take minutes, two at a time
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow -n 2 --dist worksteal --durations 10

test-floor:  ## the quick tests and a round trip of the commands with the oldest releases that pyproject.toml allows
	$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) and 'constraints/floor.txt is for Python 3.11: give PYTHON=python3.11')"
	$(PYTHON) -m venv --clear $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --upgrade pip
	$(FLOOR)/bin/python -m pip install --quiet --editable ".[test]" --constraint constraints/floor.txt
	$(FLOOR)/bin/python -m pip check
	HF_HUB_OFFLINE=1 $(FLOOR)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(HANGS)
	HF_HUB_OFFLINE=1 $(FLOOR)/bin/python -m pytest -m slow tests/test_round_trip.py
	constraints/fingerprint > constraints/tested.sha256
	rm -r $(FLOOR)  # five gigabytes

bench: $(READY)  ## ours against a plain implementation, on a machine that does nothing else
	$(BIN)/python -m benchmarks.bench

cards: $(READY)  ## render model_cards/ from the recipes
	$(BIN)/paco-hf card --recipes model_cards

# Everything is built again: neither a deleted page nor a broken link hides in an earlier build.
docs: $(READY)  ## the site, in site/; a broken link, a missing reference or an undocumented public name fails
	rm -rf site
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env --write-all --doctree-dir build/doctrees docs site
	@echo "site/index.html is the first page: open it, or serve the folder"

docs-serve: $(READY)  ## the site on http://127.0.0.1:8000, rebuilt when a page or the code changes
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx_autobuild docs site --doctree-dir build/doctrees --watch paco_hf --watch README.md \
		--watch CHANGELOG.md --watch CITATION.cff \
		--ignore "$(CURDIR)/docs/reference/*" --ignore "$(CURDIR)/docs/changelog.md" --ignore "$(CURDIR)/docs/cite.md"

pictures: graph  ## draw the pictures of README.md, CONTRIBUTING.md and docs/; the report's needs Chromium
	$(BIN)/python docs/drawings.py
	$(BIN)/python docs/screenshots.py

notebook: $(READY)  ## run the notebook and store its outputs; PACO_DOCS_PHOTOS and PACO_DOCS_WEIGHTS name the inputs
	$(BIN)/python docs/run_notebook.py

project-url: $(READY)  ## write [tool.paco-hf] url of pyproject.toml into CITATION.cff, the metadata and the notebook
	$(BIN)/python docs/project_url.py

graph: $(READY)  ## draw which package imports which, for CONTRIBUTING.md
	$(BIN)/python docs/import_graph.py

quality: $(READY)  ## lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(READY)  ## fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

release-check: $(READY)  ## versions agree; the wheel, built from the sdist, trains and predicts in an empty environment
	$(BIN)/python .github/release.py versions
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python .github/release.py wheel dist

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)
