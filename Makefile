# The one menu. `make demo` and `make test` need nothing but Python 3.11, make and (the first time) a package index.
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/stamp

# What is tested in the time it takes to breathe; the rest needs processes, disks, browsers.
FAST := tests/fleet tests/contracts/test_projections.py tests/architecture \
	$(addprefix tests/sync/test_,$(addsuffix .py,flow stream present receipt messages receive wire)) tests/store/test_journal.py tests/store/test_frames.py \
	tests/store/test_budget.py $(addprefix tests/appliance/test_,$(addsuffix .py,config evaluator payload syslog_parse world))

.PHONY: help demo test check fix bench devices sim lock peers clean

help:
	@echo "make demo    a hub, two sites and their devices; prints the addresses (DEMO_ARGS='--json')"
	@echo "make test    every test, with real peers where they can be installed"
	@echo "make check   lint, types, import rules and the fast tests (under 30 s)"
	@echo "make fix     format and mend what a tool can mend"
	@echo "make bench NAME=x   one benchmark beside its peer; without NAME: which there are"
	@echo "make sim SEED=n     hub and sites in virtual time: faults, partitions, clones (SIM_ARGS='--help')"
	@echo "make sim MINUTES=n  the same for so long, over ascending seeds; one summary at the end"
	@echo "make devices the 25 simulated devices alone                           (DEVICES_ARGS='--help')"
	@echo "make lock    renew the locks of packages, versions and hashes"

demo: $(STAMP)/runtime
	@$(PY) skerry.py demo $(DEMO_ARGS)

devices: $(STAMP)/runtime
	@$(PY) skerry.py sim devices $(DEVICES_ARGS)

sim: $(STAMP)/dev
	@$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(SIM_ARGS)

test: $(STAMP)/dev $(STAMP)/peers peers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest -n 2 --dist loadgroup $(TEST_ARGS)

check: $(STAMP)/dev
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports > /dev/null || $(VENV)/bin/lint-imports
	@$(PY) -m pytest -n 2 -m "not trial" $(FAST)

fix: $(STAMP)/dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP)/dev
	@$(PY) -m bench $(NAME)

peers:
	@sh tests/peers.sh

lock:
	uv pip compile -q pyproject.toml --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -o requirements.lock
	uv pip compile -q pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -o requirements-dev.lock
	uv pip compile -q --group peers --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -o requirements-peers.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# A stamp per lock: a second run with the same lock needs no network.
$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Skerry needs Python 3.11; found $$($(PYTHON) --version 2>&1). Install python3.11 or set PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "python3-venv is missing; trying apt-get"; apt-get install -y -q python3-venv && "$(PYTHON)" -m venv $(VENV); }

$(STAMP)/runtime: requirements.lock | $(VENV)/bin/python
	@echo "installing the packages of requirements.lock (once)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/dev: requirements-dev.lock | $(VENV)/bin/python
	@echo "installing the packages of requirements-dev.lock (once)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@mkdir -p $(STAMP) && touch $(STAMP)/runtime $@

$(STAMP)/peers: requirements-peers.lock | $(VENV)/bin/python
	@echo "installing the clients of requirements-peers.lock (once)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes --upgrade --target $(VENV)/peers -r requirements-peers.lock
	@mkdir -p $(STAMP) && touch $@
