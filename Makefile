# Every target installs what it needs. Nothing is written outside this directory, except Debian packages where hosts are needed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
STAGES := .venv/bin/python tools/stages.py

# Where it is set, each of hundreds of Pythons would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup hosts hosts-tests demo demo-down test test-unit test-full chaos lint bench docs lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F'\t' '{ printf "  make %-11s %s\n", $$1, $$2 }'

setup:  ## Make .venv with the pinned tools; again only when the pins change
	@PYTHON="$(PYTHON)" tools/setup

hosts: setup
	@lab/lab install

hosts-tests: setup
	@lab/lab install --tests

demo: hosts  ## Boot two real hosts, release the example under load, roll back; leaves it running and prints its URL
	@.venv/bin/python lab/demo.py up

demo-down:  ## Remove what `make demo` made, and nothing else
	@python3 lab/demo.py down

test: hosts-tests  ## What a change has to pass: lint, unit, models, Molecule, hosts and sanity; stops at the first failure
	@$(STAGES) lint unit molecule hosts

test-unit: setup  ## The inner loop: tests that need no host
	@$(STAGES) unit

test-full: hosts-tests  ## All of `make test`, what takes long, every lie of a backup, and the matrix: the other Debian and ansible-core
	@$(STAGES) lint unit molecule bookworm matrix hosts long lies

chaos: hosts-tests  ## A power cut at every write, and deaths at the steps of every kind of run: a round of ten (under 40 minutes)
	@$(STAGES) cuts chaos

lint: setup  ## ruff, mypy, yamllint, ansible-lint, antsibull-docs and the contracts
	@$(STAGES) lint

bench: hosts  ## Measure release and rollback against the usual way; prints seconds and ratios
	@.venv/bin/python tests/bench/run.py

docs: setup  ## Write the tables of the roles' READMEs and the pages of the modules (.cache/docs)
	@.venv/bin/python tools/readme_tables.py
	@.venv/bin/python tools/application_keys.py
	@rm -rf .cache/docs && mkdir -p .cache/docs
	@antsibull-docs collection --use-current --squash-hierarchy --fail-on-error --dest-dir .cache/docs backstay.ops

lock: setup
	@for set in controller development; do \
	  .venv/bin/uv pip compile --quiet --no-config --python-version 3.11 --universal --upgrade --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --custom-compile-command "make lock" requirements/$$set.in --output-file requirements/$$set.txt; done

# artifacts/ is no cache: it holds what an operator has built and signed.
clean:  ## Remove what the tools made here (.venv, caches); the lab is demo-down's
	@rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.lab -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
