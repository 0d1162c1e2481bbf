# make demo: set everything up, run the main job, leave out/demo/report.html
# make test: set everything up, check style and types, pass the tests
# make smoke: run the commands of the recipes at their smallest sizes, about a minute each
# make docs: build the documentation as a site, out/site/index.html
# make bench: measure what memory costs, refresh docs/performance.md, about 10 min on one core
# make test-ray: install Ray and pass the test of building a bank on it
# make test-app: install Gradio and Playwright and test the page with real clicks; needs Chromium
# make coverage: install pytest-cov, pass the tests and print which lines of memkit/ they run, about 10 min
# make torture: damage files, interrupt writers and give bad inputs for MINUTES; print what came of it
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= $(shell date +%Y%m%d)
MINUTES ?= 10
# the tests start some 200 interpreters: each would compile memkit anew where the environment forbids bytecode files
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test types suite smoke test-ray test-app coverage docs bench torture setup clean

demo: setup
	$(BIN)/memkit demo --out out/demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs 3 types docs suite

types: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

suite: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations 15

smoke: setup
	for recipe in dit_mem memlearner remind; do \
		OMP_NUM_THREADS=1 $(BIN)/python -m recipes.$$recipe --smoke --out $$(mktemp -d)/smoke || exit 1; done

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: setup
	$(BIN)/python -m benchmarks.performance

test-ray: setup
	$(BIN)/python -m pip install --quiet --group ray
	$(BIN)/python -m pytest tests/banks/test_on_ray.py

test-app: setup
	$(BIN)/python -m pip install --quiet --group app
	$(BIN)/python -m pytest tests/app

coverage: setup
	$(BIN)/python -m pip install --quiet --group coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --cov memkit --cov-report term:skip-covered

torture: setup
	$(BIN)/python -m tests.faults --seed $(SEED) --minutes $(MINUTES)

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "memkit needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[demo]" --group dev
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info
