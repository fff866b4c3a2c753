# Two commands: `make repro` (set-up and the tiny recipe, end to end) and `make test` (set-up and all tests).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RECIPE ?= tiny
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Modules are compiled once, also in containers that set this: pipeline/runtime/process.py.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup servers repro test tests-of-tiny tests-of-engines other-tests test-all unit check panel

setup:
	@$(PYTHON) -m pipeline.runtime.environments

servers:
	@$(PYTHON) -m pipeline.runtime.environments servers ray

repro: setup
	@quantgate run $(RECIPE)

test: setup servers check
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	QUANTGATE_TINY_RUN=$$folder $(MAKE) --no-print-directory -j 3 --output-sync=line tests-of-tiny tests-of-engines other-tests

tests-of-tiny:
	@python -m pytest -q --durations=12 -m "tiny and not thorough"

tests-of-engines:
	@python -m pytest -q --durations=12 -m "engine and not tiny and not thorough"

# nice: among the others are tests that time a server to a few milliseconds.
other-tests:
	@nice -n 3 python -m pytest -q --durations=12 -m "not engine and not tiny and not thorough"

test-all: setup servers check
	@python -m pytest -q -rA -m "" --hypothesis-profile=thorough

unit:
	@$(PYTHON) -m pipeline.runtime.environments control
	@python -m pytest -q -m "not engine"

check:
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo

panel: setup
	@python -m tests.panel $(MODEL)
