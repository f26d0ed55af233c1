# Everything happens in .venv, which the first target that needs it makes.
# PYTHON=python3.12 make test   uses another interpreter for a new .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow test-clouds test-oldest lint bench bench-micro bench-all clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/clouds.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --editable '.[test,clouds]'
	npm install --silent --no-save --no-package-lock azurite@3
	touch $@

demo: $(VENV)/demo.stamp  ## the main job: a model selection on a local Dask cluster
	$(BIN)/headrace demo

test: $(VENV)/test.stamp  ## all tests but the slow ones and those that need further servers
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not clouds"

test-slow: $(VENV)/test.stamp  ## the slow ones
	$(BIN)/python -m pytest -m slow --timeout 1800

test-clouds: $(VENV)/clouds.stamp  ## the exam of storages on all protocols, with many more races; needs npm
	HEADRACE_TEST_CLOUDS=1 $(BIN)/python -m pytest tests/storage tests/test_servers.py -m "not slow" --timeout 900

test-oldest: pyproject.toml  ## what `make test` runs, with the oldest releases that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest --resolution lowest-direct --editable '.[test]'
	$(VENV)-oldest/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not clouds"

lint: $(VENV)/test.stamp  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp  ## the hot path next to raw Dask
	$(BIN)/python -m benchmarks.hot_path

bench-micro: $(VENV)/test.stamp  ## CPU time and bytes of the parts, without a cluster
	$(BIN)/python -m pytest benchmarks/micro.py

bench-all: $(VENV)/test.stamp  ## all benchmarks, on a machine with nothing else to do; three quarters of an hour
	for each in hot_path coarse metg million data simulate storage; do $(BIN)/python -m benchmarks.$$each || exit 1; done
	$(BIN)/python -m pytest benchmarks/micro.py

clean:  ## remove what the targets above made
	rm -rf $(VENV) $(VENV)-oldest node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output
