# `make install`, `make demo`, `make test`. Each makes .venv when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# libtpu, for the tests of `plan`: out of the import path, or JAX would look for
# a TPU at every start.
TPU := $(VENV)/tpu
# Test processes; files are dealt out whole, so that fixtures are made once, in
# the order of tests/conftest.py.
TEST_JOBS ?= 2
# A test process that dies ends the run, where a new one in its place may wait for ever.
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist=loadfile \
  --no-loadscope-reorder --max-worker-restart=0

# Torch, for the twins of `make bench`: the build without CUDA unless another index,
# or none (TORCH_INDEX=), is given.
TORCH := $(VENV)/torch
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: install demo test test-fast lint lock bench torch clean

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m echoforge_jax demo --out=demo

test: $(STAMP) $(TPU)/.installed lint
	$(PYTEST) --durations=15

test-fast: $(STAMP)
	$(PYTEST) -m 'not slow'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

$(STAMP): requirements.txt requirements-dev.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) \
	  else f"Python 3.11 or later is needed, {v.major}.{v.minor} was found; \
	  run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c requirements.lock -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c requirements.lock --no-deps -e .
	@touch $@

# 200 MB; where there is none for a platform, tests that need it are skipped.
$(TPU)/.installed: requirements-tpu.txt requirements.lock | $(STAMP)
	@rm -rf $(TPU)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c requirements.lock --target $(TPU) -r requirements-tpu.txt; \
	then touch $@; \
	else echo 'libtpu cannot be installed here: its tests are skipped'; fi

# Speed of everything, and a table of goals: about 10 minutes on two cores.
bench: $(STAMP)
	PYTHONPATH=$(TORCH) $(BIN)/python -m benchmarks.speed.table $(BENCH)

torch: $(TORCH)/.installed

$(TORCH)/.installed: requirements-torch.txt | $(STAMP)
	rm -rf $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url=$(TORCH_INDEX)) \
	  --target=$(TORCH) -r $<
	@touch $@

# Rewrites requirements.lock from a fresh environment; then run the tests.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet \
	  -r requirements.txt -r requirements-dev.txt -r requirements-tpu.txt \
	  'jax[tpu]'
	(echo '# Tested versions; `make lock` rewrites this file.'; \
	  .venv-lock/bin/python -m pip freeze --quiet) > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) demo runs
