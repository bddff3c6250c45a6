# make setup | lab | run | test | notebooks | exercises | site | browser | stand-in | pretend-gpu | clean
#
# On Windows, or without make, README.md has the same steps as plain python and pip lines.

PYTHON ?= python3
VENV   := .venv
TESTS  := build/test-venv

LESSONS   := $(wildcard notebooks/*.ipynb)
SOLUTIONS := $(wildcard exercises/solutions/*.ipynb)
EXERCISES := $(wildcard exercises/*.ipynb)

# Notebooks are compared strictly, cell by cell, in the environment of the tests.
NBVAL := $(TESTS)/bin/pytest -q -p no:cacheprovider --nbval --nbval-current-env --nbval-cell-timeout 300 \
         --nbval-sanitize-with tests/nbval-sanitize.cfg
# The tests and the kernels that they start see no network, draw no progress bars and leave a learner's progress alone.
OFFLINE := PYTHONPATH="$(CURDIR)/tests/offline" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
           TQDM_DISABLE=1 TOKENIZERS_PARALLELISM=false PREFCOURSE_PROGRESS="$(CURDIR)/build/progress.json"

.PHONY: help setup lab run test notebooks exercises site browser stand-in pretend-gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make setup      the environment of the course, in $(VENV)"
	@echo "make lab        set up, then open the course in JupyterLab"
	@echo "make run        set up, then train DPO on the bundled model and show what changed"
	@echo "make test       everything that CI runs, in a fresh environment"
	@echo "make notebooks  run all notebooks and write them back"
	@echo "make exercises  write the students' exercise notebooks from their solutions"
	@echo "make site       every lesson and exercise as a web page that opens from disk, in build/site"
	@echo "make stand-in   after make test: every lesson on a small copy of the world gpt2-imdb, on a pretended GPU"
	@echo "make pretend-gpu  after make test: every lesson as it is, on a pretended GPU"
	@echo "make browser    install Chromium for the browser test (Debian and Ubuntu, as root); without it that test is skipped"
	@echo "make clean      remove both environments and the caches (what a bundle run left in build/ stays)"

# ---------------------------------------------------------------------------------------------- the course

$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt -c constraints.txt
	$(VENV)/bin/pip install --quiet --no-deps -e .
	@touch $@

setup: $(VENV)/.ready

# In a container one is root as a rule, and JupyterLab wants to be told that this is meant.
lab: setup
	$(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

run: setup
	$(VENV)/bin/python -m prefcourse train

notebooks: setup
	PREFCOURSE_PROGRESS=build/progress.json $(VENV)/bin/python -m prefcourse.authoring.notebooks $(LESSONS) $(SOLUTIONS)
	$(MAKE) exercises

exercises: setup
	$(VENV)/bin/python -m prefcourse.authoring.exercises

site: setup
	$(VENV)/bin/pip install --quiet latex2mathml -c constraints.txt
	$(VENV)/bin/python -m prefcourse.authoring.site --out build/site

clean:
	rm -rf $(VENV) $(TESTS) $(COLAB) $(NBGRADER) build/lib build/bdist.* *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

browser:
	command -v chromium || { apt-get update -qq && apt-get install -y -qq chromium; }

# ---------------------------------------------------------------------------------------------- the tests

# The package is installed as a wheel, not linked: the tests see what a user of the wheel sees, the bundled data included.
define INSTALL
rm -rf $(TESTS) build/wheel build/lib build/bdist.* && \
$(PYTHON) -m venv $(TESTS) && \
$(TESTS)/bin/pip install --quiet -r requirements.txt -c constraints.txt && \
$(TESTS)/bin/pip wheel --quiet --no-deps --wheel-dir build/wheel . && \
$(TESTS)/bin/pip install --quiet --no-deps build/wheel/*.whl && \
rm -rf build/lib build/bdist.*
endef

# $(call both,command,command): two at once, a core for each, which is faster than one after the other with two threads.
# What they say is shown when both are done.
define both
{ $(1); } > build/first.log 2>&1 & first=$$!; { $(2); } > build/second.log 2>&1 & second=$$!; \
wait $$first; first=$$?; wait $$second; second=$$?; \
cat build/first.log; echo "-- at the same time:"; cat build/second.log; [ $$first = 0 ] && [ $$second = 0 ]
endef

# A small copy of the world gpt2-imdb, for the lessons elsewhere.
STAND_IN := rm -rf build/stand-in && $(OFFLINE) OMP_NUM_THREADS=1 $(TESTS)/bin/python tests/stand_in.py build/stand-in

# Before the packages of the tests are there: what a user of the wheel would miss is missed here, too.
define WHEEL_TEST
$(call both,$(OFFLINE) OMP_NUM_THREADS=1 $(TESTS)/bin/python tests/whole/wheel_elsewhere.py,$(STAND_IN)) && \
$(TESTS)/bin/pip install --quiet -r tests/requirements.txt -c constraints.txt
endef

define PYTEST
$(call both,$(OFFLINE) OMP_NUM_THREADS=1 $(TESTS)/bin/pytest -q -p no:cacheprovider --durations=5 tests/test_[a-i]*.py,\
$(OFFLINE) OMP_NUM_THREADS=1 $(TESTS)/bin/pytest -q -p no:cacheprovider --durations=5 tests/test_[j-z]*.py)
endef

# Colab's IPython, widgets, numpy and matplotlib in a folder of their own, before the environment of the tests: the rest
# is shared.
COLAB := build/colab-site
ON_COLAB := $(OFFLINE) PYDEVD_DISABLE_FILE_VALIDATION=1 PYTHONPATH="$(CURDIR)/$(COLAB):$(CURDIR)/tests/offline"
COLAB_PYTEST := $(ON_COLAB) OMP_NUM_THREADS=1 $(TESTS)/bin/pytest -q -p no:cacheprovider -W ignore::DeprecationWarning
define COLAB_TESTS
rm -rf $(COLAB) && $(TESTS)/bin/pip install --quiet --no-deps --target $(COLAB) ipywidgets==7.7.1 ipython==7.34.0 \
  ipykernel==6.17.1 ipython_genutils==0.2.0 backcall==0.2.0 pickleshare==0.7.5 decorator==4.4.2 \
  numpy==2.1.3 matplotlib==3.10.0 && \
$(call both,$(COLAB_PYTEST) tests/checks/test_checks.py,\
$(COLAB_PYTEST) tests/annotation/test_app.py tests/test_lesson.py tests/test_plots*.py)
endef

# Every notebook strictly with our versions; with Colab's three lessons, the solutions and the student copies. Two parts
# that take about the same time.
COLAB_LESSONS := $(wildcard notebooks/00*.ipynb notebooks/02*.ipynb notebooks/06*.ipynb)
SECOND := $(wildcard notebooks/08*.ipynb notebooks/09*.ipynb notebooks/10*.ipynb notebooks/12*.ipynb notebooks/13*.ipynb)
define NOTEBOOK_TESTS
$(call both,$(OFFLINE) OMP_NUM_THREADS=1 $(NBVAL) $(filter-out $(SECOND),$(LESSONS)) $(SOLUTIONS) $(EXERCISES),\
$(OFFLINE) OMP_NUM_THREADS=1 $(NBVAL) $(SECOND) && \
$(ON_COLAB) OMP_NUM_THREADS=1 $(NBVAL) $(SOLUTIONS) $(EXERCISES) $(COLAB_LESSONS))
endef

# Every lesson that loads a world: on the small copy of gpt2-imdb that tests/stand_in.py makes, and on a device that is
# as strict as a GPU (tests/pretend_gpu.py).
ELSEWHERE := $(OFFLINE) OMP_NUM_THREADS=1 $(TESTS)/bin/pytest -q -p no:cacheprovider tests/whole/lessons_elsewhere.py
FIRST_HALF := 00 or 01 or 03 or 04 or 07 or 08
define STAND_IN_TESTS
$(OFFLINE) $(TESTS)/bin/pytest -q -p no:cacheprovider tests/pretend_gpu.py && \
$(call both,$(ELSEWHERE) -k "in_another_world and ($(FIRST_HALF))",$(ELSEWHERE) -k "in_another_world and not ($(FIRST_HALF))")
endef

SITE_TESTS := $(OFFLINE) $(TESTS)/bin/pytest -q -p no:cacheprovider tests/whole/site_in_browser.py

# nbgrader has an environment of its own, which sees that of the tests behind it: torch is not installed twice.
NBGRADER := build/nbgrader-venv
define NBGRADER_TESTS
rm -rf $(NBGRADER) && $(PYTHON) -m venv $(NBGRADER) && \
site='import sysconfig; print(sysconfig.get_path("purelib"))' && \
$(TESTS)/bin/python -c "$$site" > "$$($(NBGRADER)/bin/python -c "$$site")/tests.pth" && \
$(NBGRADER)/bin/pip install --quiet nbgrader==0.9.6 -c constraints.txt && \
$(OFFLINE) $(NBGRADER)/bin/python -m pytest -q -p no:cacheprovider tests/whole/nbgrader_end_to_end.py
endef

# $(call stage,name,command): one stage with its seconds; the first that fails ends the run.
define stage
echo; echo "== $(1)"; start=$$(date +%s); \
{ $(2); } || { printf '%b' "\nmake test: passed\n$${passed:-  nothing\n}make test: FAILED at: $(1)\n"; exit 1; }; \
passed="$$passed$$(printf '  %-28s %4d s' '$(1)' $$(( $$(date +%s) - start )))\n"
endef

test:
	@passed=; \
	$(call stage,fresh environment,$(INSTALL)); \
	$(call stage,wheel elsewhere and stand-in,$(WHEEL_TEST)); \
	$(call stage,ruff,$(TESTS)/bin/ruff check . && $(TESTS)/bin/ruff format --check .); \
	$(call stage,pytest,$(PYTEST)); \
	$(call stage,pytest on Colab versions,$(COLAB_TESTS)); \
	$(call stage,nbval: all notebooks,$(NOTEBOOK_TESTS)); \
	$(call stage,lessons elsewhere,$(STAND_IN_TESTS)); \
	$(call stage,site and nbgrader,$(call both,$(SITE_TESTS),$(NBGRADER_TESTS))); \
	printf '%b' "\nmake test: all stages passed\n$$passed"

# In the environment that `make test` made: that stage alone, and all lessons as they are on the pretended GPU.
stand-in:
	@$(STAND_IN) && $(STAND_IN_TESTS)

pretend-gpu:
	@$(call both,$(ELSEWHERE) -k "on_another_device and ($(FIRST_HALF))",\
	$(ELSEWHERE) -k "on_another_device and not ($(FIRST_HALF))")
