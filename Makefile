# Every target makes its own .venv, so that each works on a machine that has only Python and pip.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test quick lint format stubs docs-check clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	OMP_WAIT_POLICY=passive $(RUN) -m hf_tsrep demo --output-dir demo

# One process a core, each with one thread: small models wait for threads otherwise. A file stays in one process, and
# the files keep their order: by the number of tests those of few long ones would come last, and one process idle.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# What a change is tried with: all but the slowest tests, in one process.
quick: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow"

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

stubs: $(STAMP)
	$(RUN) scripts/write_stubs.py

docs-check: $(STAMP)
	$(RUN) -m pytest tests/integration/test_readme.py

clean:
	rm -rf $(VENV) build dist *.egg-info demo
