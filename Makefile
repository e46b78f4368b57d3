# make train · make test · make serve · make bench. Each sets up .venv first if necessary, with only what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?=
CONFIG ?= configs/small_gpt.yaml
CHECKPOINT ?=
ARGS ?=
# A .venv that was made with another Python is accepted, unless a Python is named on the command line.
INSTALL = $(or $(PYTHON),python3) install.py $(if $(filter command,$(origin PYTHON)),,--keep-python) \
	$(if $(strip $(TORCH)),--torch $(strip $(TORCH)))

.PHONY: help setup setup-docs setup-test docs train serve generate smollm2 speedrun test test-quick soak soak-engine soak-checkpoints lint \
	resolve bench bench-quick clean

help: ## Show the commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

setup: ## Make .venv to train, generate, serve and learn (TORCH=cpu: 0.3 GB instead of 2.9 on Linux; PYTHON=python3.12)
	@$(INSTALL)

setup-docs: ## Make .venv, also to build the site
	@$(INSTALL) --with docs

setup-test: ## Make .venv, also to test and to measure speed
	@$(INSTALL) --with test

train: setup ## Train on the documentation of this machine (CONFIG=…, ARGS="--optimizer.lr 1e-3")
	$(BIN)/python 05_training/train.py --config $(CONFIG) $(ARGS)

generate: setup ## Talk to the newest checkpoint in the terminal (CHECKPOINT=…)
	$(BIN)/python 07_optimization/generate.py $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(ARGS)

serve: setup ## Serve the newest checkpoint on 127.0.0.1:8000 (CHECKPOINT=…)
	$(BIN)/python 09_deployment/api/main.py $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(ARGS)

smollm2: setup ## Fetch a real chat model, SmolLM2 with 135 million parameters (93 MB); then: make serve CHECKPOINT=checkpoints/smollm2
	$(BIN)/python 06_finetuning/import_weights.py smollm2 $(ARGS)

lint: setup-test ## Check style, import contract and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

speedrun: setup ## From nothing to a chat model with a report, in about 25 minutes (TIER=smoke: one minute)
	$(BIN)/python 08_evaluation/speedrun.py --config configs/speedrun/$(or $(TIER),full).yaml $(ARGS)

test-quick: setup-test ## Style, import contract, and the tests that take little time, in less than two minutes
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --quick $(ARGS)

test: lint ## Run all checks and tests that must pass
	$(BIN)/python -m pytest -n auto $(ARGS)

soak: setup-test ## Test the server under load and attack; nothing may be left over (three minutes)
	$(BIN)/python tests/soak_server.py $(ARGS)

soak-engine: setup-test ## Test 10,000 random schedules of the inference engine; no block may be lost (15 minutes)
	for seed in 1 2 3 4 5; do SCHEDULES=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -n0 --hypothesis-seed=$$seed tests/07_optimization/test_random_schedules.py $(ARGS) || exit 1; done

soak-checkpoints: setup-test ## Kill a training run 100 times at random moments; nothing may be lost (twenty minutes)
	$(BIN)/python tests/kill_harness.py $(ARGS)

docs: setup-docs ## Build the documentation site into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -b html -q docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

resolve: setup-test ## Ask the package index whether every Python and system can get the pinned versions (a minute)
	$(BIN)/python tests/resolve_requirements.py

bench: setup-test ## Compare the speed with other programs; JSON and Markdown in benchmarks/results
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-quick: setup-test ## The same on less data, in three minutes
	$(BIN)/python benchmarks/run.py --quick $(ARGS)

clean: ## Remove the files that tools made; data sets and checkpoints stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis docs/_build
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
