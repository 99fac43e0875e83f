# Everything a developer runs. Each target sets up .venv by itself, once per change of pyproject.toml or constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 3

# Where this is set, every process compiles all that it imports anew: torch takes 6 s of a core instead of 2.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-slow style quality golden figures

setup: $(READY)

# Not compiled: that takes a minute of two cores, and Python compiles by itself the tenth of it that is ever imported.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say which with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: setup
	$(BIN)/compact demo

# A file stays with one worker, so that what its tests share (a tuned model, a wheel) is made once; tests/conftest.py says
# which files begin and which stay together. At most 10 minutes from nothing on two cores, 12 as tests are added.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Minutes long each, so one after the other and with every core.
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

# Records tests/golden anew. Only for a change that is meant: the files are what other people's data were made with.
golden: setup
	$(BIN)/python -m pytest -n 0 --golden -k golden

# What README shows: figures and a picture, measured and made anew. About an hour on two cores.
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
	$(BIN)/python benchmarks/readme.py
