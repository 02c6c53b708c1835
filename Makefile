# The one list of commands. `make` alone prints it.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PEERS ?= .venv-peers
bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help quickstart install test slow smoke check lint format bench docs golden clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps make a second run start at once; they are renewed when the requirements change.
$(VENV)/.core: pyproject.toml constraints.txt
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@$(bin)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stitchrl needs Python 3.11 or newer, found " + sys.version.split()[0] + "; make PYTHON=python3.11 …")'
	@echo "installing into $(VENV) (one to three minutes the first time)"
	$(pip) install -c constraints.txt $(TORCH)
	$(pip) install -c constraints.txt -e ".[icu]"
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(pip) install -c constraints.txt -e ".[test]"
	@touch $@

install: $(VENV)/.test  ## create .venv and install the package with all that the tests use

quickstart: $(VENV)/.core  ## from a real log to a report: install, train four algorithms, compare with the truth
	$(bin)/stitchrl quickstart

test: $(VENV)/.test  ## every test but the slow ones
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 -m "not slow" -q

slow: $(VENV)/.test  ## the slow tests: learning on real tasks, coverage of intervals
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 -m slow -q

smoke: $(VENV)/.test  ## the benchmark's smallest suite, minutes: does every run of it end
	rm -rf runs/smoke
	$(bin)/stitchrl benchmark run --suite smoke --out runs/smoke

lint: $(VENV)/.test  ## format check, lint, types, import contracts
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

check: lint test  ## what to run before a commit: lint, then test

format: $(VENV)/.test  ## rewrite the files as ruff would have them
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

# d3rlpy 2.8.1 asks for gymnasium 1.0.0; the second line gives both sides of a comparison the same environments.
$(PEERS)/.installed: Makefile
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check -qq install $(TORCH) d3rlpy==2.8.1 transformers==5.23.0 "gymnasium[mujoco]"
	$(PEERS)/bin/python -m pip --disable-pip-version-check -qq install --no-deps gymnasium==1.4.0
	@touch $@

bench: $(VENV)/.test $(PEERS)/.installed  ## speed, side by side with other libraries on this machine, in one run
	$(bin)/python benchmarks/speed/side_by_side.py --peers $(PEERS)/bin/python

docs: $(VENV)/.test  ## run the programs and check the commands and links of the documentation
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -q tests/documentation

golden: $(VENV)/.test  ## record the golden losses anew: a change of numbers, in a commit of its own
	OMP_NUM_THREADS=1 $(bin)/python tests/golden/record.py

clean:  ## remove caches and builds; runs and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
