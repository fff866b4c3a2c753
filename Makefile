# Two commands: `make repro` (set-up and the tiny recipe, end to end) and `make test` (set-up and all tests).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RECIPE ?= tiny
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: setup repro test test-all unit check panel

setup:
	@$(PYTHON) -m pipeline.environments

repro: setup
	@quantgate index
	@dvc repro --keep-going require@$(RECIPE)

test: setup check
	@python -m pytest -q -n 2 --dist loadgroup --durations=12

test-all: setup check
	@python -m pytest -q -rA -m ""

unit:
	@$(PYTHON) -m pipeline.environments control
	@python -m pytest -q -n 2 -m "not engine"

check:
	@ruff check .
	@ruff format --check .
	@mypy

panel: setup
	@python -m tests.panel
