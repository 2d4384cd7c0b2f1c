# animedrag: from a folder of drawings to an edited picture. `make help` lists every verb.
#
# Any setting of any stage can follow in ARGS, e.g. make train CHARACTER=ganyu ARGS="train.kimg=100".

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
RUN    := $(PY) -m scripts.run

CHARACTER ?= ganyu
DATA      ?=
NETWORK   ?=
IMAGE     ?=
RECIPE    ?=
POINTS    ?=
ARGS      ?=

# Each variable becomes a setting only where it is given; otherwise conf/ decides.
NETWORK_SETTING := $(if $(NETWORK),network=$(NETWORK))

.DEFAULT_GOAL := help
.PHONY: help setup kernels demo test lint preprocess train invert edit report bench doctor clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'

setup: $(VENV)/.ready ## create .venv, install the tested versions, fetch model files, check the machine

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 13)))' || { \
	  echo "animedrag needs Python 3.11 or 3.12, and $(PYTHON) is another; run: make setup PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)."; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the tested versions into $(VENV) (about 2 minutes) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@$(PY) -m scripts.fetch_weights
	@$(PY) -m scripts.build_kernels
	@$(PY) -m scripts.doctor --quiet
	@touch $@

demo: setup ## paint, preprocess, train, invert, edit, report: the whole road on a CPU in about 10 minutes
	$(PY) -m scripts.demo $(NETWORK_SETTING) $(ARGS)

kernels: $(VENV)/.ready ## compile the fast operators (setup does it; again after changing csrc/)
	$(PY) -m scripts.build_kernels --strict

test: setup ## run the whole test suite
	$(PY) -m pytest -n auto --dist loadfile

lint: setup ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

clean: ## remove caches and Hydra's logs (artifacts stay)
	rm -rf runs build .pytest_cache .ruff_cache .mypy_cache .hypothesis
