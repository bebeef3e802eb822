# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer, git and make; each makes .venv itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit docs proto clean

demo: $(VENV)/.installed
	$(BIN)/seqwright demo --output demo

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# Pages that are generated from the code.
docs: $(VENV)/.installed
	$(BIN)/python -m seqwright.hyperparameters > docs/hyperparameters.md

# The protobuf classes, from src/seqwright/data/record.proto.
proto: $(VENV)/.installed
	cd src && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. seqwright/data/record.proto

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache
