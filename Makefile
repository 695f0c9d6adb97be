# Everything a user or a contributor runs. `make` alone prints this list.
SHELL := /bin/bash
PYTHON ?= python3
TORCH_VERSION := 2.13.0
# On Linux without a GPU, torch's CPU build is 10 times smaller than the default one:
#   make TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu setup
TORCH_INDEX_URL ?=
Q ?= What does double quantization save?
VENV := .venv
BIN := $(VENV)/bin
# Store, threads and logs of the demonstration stay in the clone; the checkpoint goes to the user's cache, for every clone to share.
DEMO_HOME := .demo
CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mistral-agent
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TEST_MODELS := qwen2.5-coder-0.5b qwen2.5-coder-1.5b
SLOW_TIMEOUT ?= 3600
NATIVE := llms/decoders/cpu

.PHONY: help setup dev ask models test test-long lint examples bench lock clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.built  ## .venv with the toolkit and all it needs

dev: $(VENV)/.dev $(VENV)/.built  ## the same and the tools for working on it

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=/path/to/python3.11 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -z "$(TORCH_INDEX_URL)" ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "No NVIDIA GPU found. If the download of torch is large, stop it and take the CPU build:"; \
	  echo "  make TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu setup"; fi >&2
	@echo "Installing torch $(TORCH_VERSION) ..." >&2
	@$(PIP) install -q $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==$(TORCH_VERSION)
	@touch $@

# --no-deps: the lock is complete, and a dependency it forgot must fail here and not be fetched unhashed.
$(VENV)/.installed: $(VENV)/.torch requirements.lock
	@echo "Installing the locked packages ..." >&2
	@$(PIP) install -q --no-deps --require-hashes -r requirements.lock
	@touch $@

# The editable installation compiles the native code in place, again whenever its sources have changed.
$(VENV)/.built: $(VENV)/.installed pyproject.toml setup.py $(wildcard $(NATIVE)/*.cpp $(NATIVE)/*.h $(NATIVE)/native.py)
	@echo "Installing this package, compiling its native code ..." >&2
	@$(PIP) install -q --no-deps --no-build-isolation --editable .
	@$(BIN)/python $(NATIVE)/native.py >&2
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements-dev.lock | $(VENV)/.built
	@echo "Installing the tools for development ..." >&2
	@$(PIP) install -q --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

ask: export QUESTION := $(Q)
ask: $(VENV)/.built  ## a question about examples/docs: make ask Q="..."
	@AGENT_HOME=$(DEMO_HOME) AGENT_CACHE_DIR="$(CACHE_DIR)" $(BIN)/agent ask --docs examples/docs "$$QUESTION"

models: $(VENV)/.built  ## the two Qwen models that some tests need, into your cache (1.6 GB)
	@$(BIN)/agent models pull $(TEST_MODELS)

test: lint  ## lint, types, tests and every example (about 17 minutes on 2 cores)
	@$(BIN)/python -m pytest -q
	@$(MAKE) --no-print-directory examples

test-long: $(VENV)/.dev $(VENV)/.built  ## the long suite as well
	@$(BIN)/python -m pytest -q -m "not gpu" --timeout=$(SLOW_TIMEOUT)

lint: $(VENV)/.dev $(VENV)/.built  ## ruff, format check, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy agent chains llms sandbox tools examples benchmarks

examples: $(VENV)/.dev $(VENV)/.built  ## run each example
	@export HF_HUB_OFFLINE=1 AGENT_HOME=$(DEMO_HOME)/examples AGENT_CACHE_DIR="$(CACHE_DIR)"; \
	for example in examples/*.py; do \
	  echo "== $$example"; start=$$SECONDS; \
	  timeout 240 $(BIN)/python $$example </dev/null >$(VENV)/example.log 2>&1 \
	    || { cat $(VENV)/example.log; echo "$$example failed"; exit 1; }; \
	  tail -n 4 $(VENV)/example.log; echo "   $$((SECONDS - start)) s"; \
	done

bench: $(VENV)/.dev $(VENV)/.built  ## the benchmarks that need no GPU and no data folder
	@for bench in wrapper start ingest; do $(BIN)/python benchmarks/$$bench.py || exit 1; done

LOCK := --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	--unsafe-package torch --unsafe-package pip --unsafe-package setuptools
lock: $(VENV)/.dev  ## pin again: pyproject.toml -> requirements*.lock
	@$(BIN)/pip-compile $(LOCK) -c <(echo torch==$(TORCH_VERSION)) -o requirements.lock pyproject.toml
	@$(BIN)/pip-compile $(LOCK) -c <(echo torch==$(TORCH_VERSION)) -c requirements.lock --extra dev -o requirements-dev.lock pyproject.toml
	@sed -i '/^# WARNING/,$$d' requirements.lock requirements-dev.lock  # torch is left out on purpose

clean:  ## .venv, .demo and compiled code away; the checkpoint in the user's cache stays
	@rm -rf $(VENV) $(DEMO_HOME) build $(NATIVE)/*.so
