PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Of all random numbers in tests; pytest prints it, so that a failure can be repeated.
SEED ?= 0
PYTEST := $(BIN)/python -m pytest --hypothesis-seed=$(SEED)
TORCH ?= default
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Kernels that most machines don't run, and another number of threads than the suite has.
OTHER_KERNELS := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2
PORTABLE := tests/models/runtime/test_batch_invariant_cuda_convolutions.py tests/models/engine/test_prompt_cache.py tests/models/runtime/test_batch_invariant_cpu.py \
	tests/models/diffusion/test_tiny_decoder.py tests/models/engine/test_vae_decode.py tests/models/assess/test_clip_score.py tests/models/watermark/test_codec.py \
	tests/worker/imaging/test_encode.py tests/worker/imaging/test_png.py -k 'not (anywhere and (sides1 or 5-))'

.DEFAULT_GOAL := help
.PHONY: help install demo test test-end-to-end test-faults test-portable test-slow lint bench chaos chart compose-check image locks clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 \t\2/' | expand -t 16

install: .venv/.installed  ## Make .venv with nightmill and its pinned dependencies

demo: .venv/.installed  ## Render examples/demo.jsonl with services of its own and show where the pictures are
	$(BIN)/nightmill run examples/demo.jsonl --out output

# Three at once on two cores: a test often waits for a process, a server or a time.
test: .venv/.installed-dev  ## The suite, on real PostgreSQL, Redis, Celery workers and an S3 server
	$(PYTEST) -n 3 --dist worksteal -m 'not end_to_end and not faults and not slow_tier'

test-end-to-end: .venv/.installed-dev  ## The README's commands, whole installations and benchmarks, as processes
	$(PYTEST) -n 3 --dist worksteal -m end_to_end

test-faults: .venv/.installed-dev  ## What breaks processes, servers and disks, and readers on 2,000 damaged inputs each
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m faults

test-portable: .venv/.installed-dev  ## A quick part of the suite as on a processor without AVX
	$(OTHER_KERNELS) $(PYTEST) -n 2 $(PORTABLE)

test-slow: .venv/.installed-dev  ## What takes minutes: the demo on a bare Debian, container images, wheels for all systems
	$(PYTEST) -m slow_tier --timeout 3600

lint: .venv/.installed-dev  ## ruff, mypy, import-linter, alembic check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m migrations

bench: .venv/.installed-dev  ## All benchmarks; `python -m bench queue --json` for one of them
	$(BIN)/python -m bench

chaos: .venv/.installed-dev  ## The fault experiments at full length; `docs/guarantees.md` tells what each shows
	NIGHTMILL_CHAOS=long $(PYTEST) tests/chaos --timeout 3600

chart: .venv/.installed-dev  ## Check the Helm chart, Prometheus' alerts and Grafana's dashboards, and pack the chart into build/
	$(PYTEST) tests/infra/helm/test_helm_chart.py tests/infra/helm/test_helm_pods.py tests/infra/helm/test_helm_values.py tests/infra/monitoring/test_prometheus.py \
		tests/infra/monitoring/test_grafana.py
	"$$($(BIN)/python infra/tools/fetch_programs.py helm)" package infra/helm/nightmill --destination build

compose-check: .venv/.installed-dev  ## Check infra/compose/compose.yaml, and run what it runs as processes
	$(PYTEST) tests/infra/containers/test_compose.py tests/infra/containers/test_compose_runs.py

# Both, or `make IMAGE=server image`; `make TORCH=cpu image` for workers without a GPU; `make IMAGE=--help image`.
image: .venv/bin/python  ## Build the container images nightmill-server and nightmill-worker
	$(BIN)/python infra/docker/build_image.py $(if $(filter cpu,$(TORCH)),--torch cpu --torch-index $(TORCH_INDEX)) $(IMAGE)

locks: .venv/.installed-dev  ## Write infra/docker/requirements-*.txt anew, after a change of pyproject.toml or constraints.txt
	$(BIN)/python infra/docker/lock_requirements.py

clean:  ## Remove .venv, private services and their data, and caches; finished pictures stay
	-[ -x $(BIN)/nightmill ] && $(BIN)/nightmill down
	rm -rf .venv .nightmill build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "nightmill needs Python 3.11 to 3.14; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@$(PYTHON) -m jobs.services.broker_program
	@echo "installing into .venv; this takes a minute or two the first time"
	$(TORCH_$(TORCH))
	$(PIP) -e '.[worker,plots]'
	@touch $@

# `make TORCH=cpu …`: PyTorch without CUDA, from its own index or the one that TORCH_INDEX names.
TORCH_default :=
TORCH_cpu = $(PIP) --index-url $(TORCH_INDEX) --no-deps torch

# The reference decoder of the watermark tests asks for a second OpenCV and more; it runs with what is there.
.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps invisible-watermark==0.2.0
	@# Programs that check infra/; a test that misses one says so.
	-@$(BIN)/python infra/tools/fetch_programs.py > /dev/null
	@touch $@
