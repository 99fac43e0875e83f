# Everything a developer runs. Each target sets up .venv, again only if pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check
READY := $(VENV)/.ready
WORKERS ?= 3

# If this is set, every process compiles all its imports again: torch takes 6 s of a core instead of 2.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-slow style quality docs golden figures release-check

setup: $(READY)

# Not compiled by pip, which takes a minute of two cores: Python compiles the tenth of it that is imported. The pinned
# packages are first installed by two processes, since pip uses one core; the last line adds what is not pinned.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say which with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	grep '==' constraints.txt | tr '\n' '\0' | xargs -0 -n 60 -P 2 $(PIP) --no-deps
	$(PIP) -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: setup
	$(BIN)/compact demo

# The tests of a file run on one worker, so that what they share (a tuned model, a wheel) is made once; tests/conftest.py
# orders the files. At most 12 minutes from nothing on two cores.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Each takes minutes: one after the other, with all cores.
test-slow: setup
	$(BIN)/python -m pytest -m slow

style: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

quality: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, into site/. Broken links, missing references and wrong docstrings fail.
docs: setup
	$(BIN)/python docs/build_site.py

# Records tests/golden again, for an intended change only: the files describe how other people's data was made.
golden: setup
	$(BIN)/python -m pytest -n 0 --golden -k golden

# Measures everything in README.md and docs/ again: about an hour on two cores.
figures: setup
	mkdir -p docs/figures docs/assets
	$(BIN)/python benchmarks/scenes.py --json > docs/figures/scenes.json
	$(BIN)/python benchmarks/release.py --json > docs/figures/release.json
	$(BIN)/python benchmarks/generation.py --json > docs/figures/generation.json
	$(BIN)/python benchmarks/training.py --json > docs/figures/training.json
	$(BIN)/python benchmarks/evaluation.py --json > docs/figures/evaluation.json
	$(BIN)/python benchmarks/costs.py --json > docs/figures/costs.json
	$(BIN)/python benchmarks/first_steps.py --from-nothing --json > docs/figures/first_steps.json
	$(BIN)/compact demo --out demo-out
	cp demo-out/contact_sheet.png docs/assets/contact_sheet.png
	$(BIN)/python benchmarks/tables.py

# Before a version is tagged. Leaves the files to upload in dist/.
release-check: setup
	$(BIN)/python .ci/release_check.py
