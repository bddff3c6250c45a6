# make setup | lab | run | check | lowest | test | notebooks | exercises | site | slides | browser | stand-in | pretend-gpu | clean
#
# On Windows, or without make, docs/install.md has the same steps as plain python and pip lines.

PYTHON ?= python3
VENV   := .venv
TESTS  := build/test-venv
LOWEST := build/lowest-venv
SITE   := build/site-venv
# uv, where it is installed, does what pip does in a fraction of the time.
PIP    := $(if $(shell command -v uv),uv pip install --quiet --python $(VENV)/bin/python,$(VENV)/bin/pip install --quiet)

LESSONS   := $(wildcard notebooks/*.ipynb)
SOLUTIONS := $(wildcard exercises/solutions/*.ipynb)

.PHONY: help setup lab run check lowest test notebooks exercises site slides browser stand-in pretend-gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make setup      the environment of the course, in $(VENV)"
	@echo "make lab        set up, then open the course in JupyterLab"
	@echo "make run        set up, then train DPO on the bundled model and show what changed"
	@echo "make check      the inner loop: ruff, the import contract and the unit tests, no notebook, in $(VENV)"
	@echo "make lowest     the unit tests with the lowest versions that the requirements allow, in a fresh environment"
	@echo "make test       everything that CI runs, in a fresh environment"
	@echo "make notebooks  run all notebooks and write them back"
	@echo "make exercises  write the students' exercise notebooks from their solutions"
	@echo "make site       the course as web pages that open from disk, in build/site; SOLUTIONS=1 adds the solutions"
	@echo "make slides     a deck of slides for every lesson, in build/slides; with node and a Chromium as HTML and PDF, too"
	@echo "make stand-in   after make test: every lesson on a small copy of the world gpt2-imdb, on a pretended GPU"
	@echo "make pretend-gpu  after make test: every lesson as it is, on a pretended GPU"
	@echo "make browser    install Chromium for the browser test (Debian and Ubuntu, as root); without it that test is skipped"
	@echo "make clean      remove the environments and the caches (what a bundle run left in build/ stays)"

# ---------------------------------------------------------------------------------------------- the course

$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt -c constraints.txt
	$(PIP) --no-deps -e .
	@touch $@

setup: $(VENV)/.ready

# In a container one is root as a rule, and JupyterLab wants to be told that this is meant.
# Long lines of code are wrapped, so that none is cut on a small screen.
lab: setup
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/notebook-extension:tracker": {"codeCellConfig": {"lineWrap": true}}}' \
	    > $(VENV)/share/jupyter/lab/settings/overrides.json
	$(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

run: setup
	$(VENV)/bin/python -m prefcourse train --overwrite

notebooks: setup
	PREFCOURSE_PROGRESS=build/progress.json PREFCOURSE_LABELS=$(CURDIR)/build/labels.jsonl \
	    $(VENV)/bin/python -m prefcourse.authoring.notebooks $(LESSONS) $(SOLUTIONS)
	$(VENV)/bin/python -m prefcourse.authoring.front_door
	$(MAKE) exercises

exercises: setup
	$(VENV)/bin/python -m prefcourse.authoring.exercises
	$(VENV)/bin/python -m prefcourse.authoring.guide

# Sphinx and its themes have an environment of their own, which the course does not need.
$(SITE)/.ready: docs/requirements.txt constraints.txt
	rm -rf $(SITE)
	$(PYTHON) -m venv $(SITE)
	$(subst $(VENV),$(SITE),$(PIP)) -r docs/requirements.txt
	@touch $@

site: $(SITE)/.ready
	$(SITE)/bin/python docs/make_site.py $(if $(SOLUTIONS),--solutions)

# The decks are Markdown and always written; where node or a Chromium is missing, the last lines say so.
slides: setup
	$(VENV)/bin/python -m prefcourse.authoring.slides --out build/slides --render

clean:
	rm -rf $(VENV) $(TESTS) $(LOWEST) $(SITE) build/site build/site-source build/nbgrader-venv build/colab-site build/stages build/lib build/bdist.* *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

browser:
	command -v chromium || { apt-get update -qq && apt-get install -y -qq chromium; }

# ---------------------------------------------------------------------------------------------- the tests

$(VENV)/.tests: $(VENV)/.ready tests/requirements.txt
	$(PIP) -r tests/requirements.txt -c constraints.txt
	@touch $@

# One thread a worker: the models of the tests are too small for two. The slow ones, and tests/whole, are left to make test.
check: $(VENV)/.tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -q -p no:cacheprovider -n auto --dist loadfile \
	  -m "not slow" --ignore tests/whole tests

# The bounds in requirements.txt and tests/requirements.txt are those that this has passed with. torch's wheel for Linux
# brings its GPU libraries, gigabytes of them, unless pip knows where a CPU build is to be had (PIP_EXTRA_INDEX_URL).
lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --no-compile -r tests/lowest.txt
	$(LOWEST)/bin/pip install --quiet --no-compile --no-deps trl==1.16.0
	$(LOWEST)/bin/pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -q -p no:cacheprovider -n auto --dist loadfile \
	  -m "not slow" --ignore tests/whole tests

test:
	@$(PYTHON) tests/stages.py

# In the environment that `make test` made: those stages alone, and all lessons as they are on the pretended GPU.
stand-in:
	@$(PYTHON) tests/stages.py stand-in "pretended GPU" "elsewhere 00 to 03" "elsewhere 04 to 07" "elsewhere 08 to 10" \
	  "elsewhere from 11"

pretend-gpu:
	@PYTHONPATH=tests/offline OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(TESTS)/bin/pytest -q -p no:cacheprovider -n auto \
	  tests/whole/lessons_elsewhere.py -k on_another_device
