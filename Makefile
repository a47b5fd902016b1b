# Every verb of the project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PEERS := .venv-peers

.DEFAULT_GOAL := help
.PHONY: help setup browser demo bench peers test test-long fuzz chaos chaos-sinks chaos-gateway simulate evidence coverage style docs \
  lock clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(STAMP) ## make .venv with everything locked, and compile the kernels once
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "barograph needs Python 3.11 or newer; name one with: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing locked packages (about two minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@echo "compiling kernels"
	@$(BIN)/python -m control.warm
	@touch $@

browser: ## find a Chromium for the browser tests, or install one where apt can
	@infra/find-browser

demo: setup ## run everything on this machine with a simulated market; prints the console's address
	@$(BIN)/barograph demo $(ARGS)

bench: setup ## measure the engine, each figure beside its baseline
	@$(BIN)/barograph bench engine $(ARGS)

peers: $(PEERS)/.ready ## make .venv-peers with other people's order books, which benches compare with
$(PEERS)/.ready: infra/peers/requirements.lock
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@echo "installing locked packages (about two minutes the first time)"
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

test: setup browser ## all tests but the long ones
	@$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: setup browser ## soak and large seed counts
	@$(BIN)/python -m pytest -m long $(ARGS)

chaos: setup ## every fault on a real broker, determinism, first starts; a table in docs/evidence; takes an hour
	@$(BIN)/python -m tests.integration.chaos.course $(ARGS)

chaos-sinks: setup ## every fault of the sinks on a real broker, store and bucket; a table in docs/evidence; takes an hour
	@$(BIN)/python -m tests.integration.chaos.sink_course $(ARGS)

chaos-gateway: setup ## a thousand clients, some slow; kills of gateway, broker, network; a table in docs/evidence; an hour
	@$(BIN)/python -m tests.integration.chaos.gateway_course $(ARGS)

evidence: setup ## 50,000 random examples of the engine against its oracle, logged in docs/evidence; takes long
	@$(BIN)/python tests/property/evidence.py

simulate: setup ## 10,000 seeds of faults around the stages and sinks, logged in docs/evidence; takes long
	@$(BIN)/python -m tests.simulation.evidence

fuzz: setup ## texts of strangers against the gateway's session, for an hour; another time with ARGS="--seconds 60"
	@$(BIN)/python -m tests.fuzz.session_text $(ARGS)

coverage: setup ## line coverage of the engine without its compiler; fails below 100 %
	@$(BIN)/python tests/unit/engine/coverage_run.py

style: setup ## format, then check style, types and layers
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/mypy && $(BIN)/lint-imports

docs: setup ## write the generated pages of docs/
	@$(BIN)/python -m control.docgen

PEERS_EXTRA := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")

lock: ## renew requirements.lock and that of the peers from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --upgrade --quiet -o requirements.lock
	@$(PYTHON) -c '$(PEERS_EXTRA)' | uv pip compile - --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --upgrade --quiet -o infra/peers/requirements.lock

clean: ## remove what setup made, and the data folder
	@rm -rf $(VENV) $(PEERS) .barograph
