PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench chaos clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 \t\2/' | expand -t 16

install: .venv/.installed  ## Make .venv with nightmill and its pinned dependencies

demo: .venv/.installed  ## Render examples/demo.jsonl with services of its own and show where the pictures are
	$(BIN)/nightmill run examples/demo.jsonl --out output

test: .venv/.installed-dev  ## The whole suite, on real PostgreSQL, Redis, Celery workers and an S3 server
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-dev  ## ruff, mypy, import-linter, alembic check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m migrations

bench: .venv/.installed-dev  ## All benchmarks; `python -m bench queue --json` for one of them
	$(BIN)/python -m bench

chaos: .venv/.installed-dev  ## The fault experiments at full length; `docs/guarantees.md` tells what each shows
	NIGHTMILL_CHAOS=long $(BIN)/python -m pytest tests/chaos --timeout 3600

clean:  ## Remove .venv, private services and their data, and caches; finished pictures stay
	-[ -x $(BIN)/nightmill ] && $(BIN)/nightmill down
	rm -rf .venv .nightmill build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nightmill needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv; this takes a minute or two the first time"
	$(PIP) -e .
	@touch $@

# The reference decoder of the watermark tests asks for a second OpenCV and more; it runs with what is there.
.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev,bench]'
	$(PIP) --no-deps invisible-watermark==0.2.0
	@touch $@
