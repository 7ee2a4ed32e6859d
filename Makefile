# Every target makes the environment it needs: there is nothing to install first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Stale when the pins, the dependencies or the folder change (an environment knows its folder).
STAMP  := $(VENV)/.installed-$(shell printf %s '$(CURDIR)' | cksum | cut -d' ' -f1)

EXP   ?= noise_vs_x
SCALE ?=
ARGS  ?=
RUN   := $(EXP) $(if $(SCALE),--scale $(SCALE))

.DEFAULT_GOAL := help
.PHONY: help setup experiment report ui data notebooks bench-data test lint types clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  EXP=noise_vs_x SCALE=digits ARGS="--seeds 3 train.steps=1200" go to experiment; EXP and SCALE to report and ui'

setup: $(STAMP)  ## Make the environment (about 6 GB in .venv)

experiment: $(STAMP)  ## Run a question, or go on with it: make experiment EXP=noise_vs_x
	@$(BIN)/jitlab run $(RUN) $(ARGS)

report: $(STAMP)  ## Write a question's report again
	@$(BIN)/jitlab report $(RUN) $(ARGS)

ui: $(STAMP)  ## Serve the MLflow UI and print the link to a question's charts
	@$(BIN)/jitlab ui $(RUN) $(ARGS)

data: $(STAMP)  ## Build the digits as shards in data/digits32
	@$(BIN)/jitlab data build digits --image-size 32 --out data/digits32

notebooks: $(STAMP)  ## Execute the notebooks again, in place; trains noise_vs_x where it was not
	@$(BIN)/jitlab run noise_vs_x
	@$(BIN)/python notebooks/execute.py notebooks/*.ipynb

bench-data: $(STAMP)  ## Measure data loading beside its peers (ARGS=--memory: its memory over an epoch)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.data_loading $(ARGS)

bench-evaluate: $(STAMP)  ## Measure generation and feature extraction (ARGS=--memory: peak memory over N)
	@$(BIN)/python -m benchmarks.evaluation $(ARGS)

test: $(STAMP)  ## Run the quick tests (ARGS="-m slow" for the slow ones)
	@$(BIN)/python -m pytest -q -n auto --dist loadfile $(ARGS)

lint: $(STAMP)  ## Check style and the import rule
	@$(BIN)/ruff check src tests benchmarks notebooks
	@$(BIN)/ruff format --check src tests benchmarks notebooks
	@$(BIN)/lint-imports --no-logo

types: $(STAMP)  ## Check types
	@$(BIN)/mypy

clean:  ## Remove environment and caches; runs, data and MLflow's database stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'jitlab needs Python 3.11 or newer; name one: make PYTHON=python3.12 setup' >&2; exit 2; }
	@echo 'Installing jitlab into $(VENV): about 6 GB, some minutes, once'
	@rm -f $(VENV)/.installed-*
	@$(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
