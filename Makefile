# All it needs is Python 3.11 or newer; what the service and its tests need goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test slow soak fuzz check pins audit

# DATABASE=postgresql gives it a new PostgreSQL, whose data go when it stops.
run: .venv/$(if $(DATABASE),dev,run)
	@$(if $(filter-out postgresql,$(DATABASE)),echo "DATABASE can be postgresql." >&2; exit 2)
	@trap 'exit 0' INT; TRACE=1 OPEN_LOCAL=1 $(if $(DATABASE),$(BIN)/python -m nutshell.tests.postgres) $(BIN)/python -m nutshell --reload

test: .venv/dev
	$(BIN)/pytest -m "not slow and not soak" --cov

slow: .venv/dev
	$(BIN)/pytest -m slow -rfEPs

# SOAK_SECONDS (600) of load, and lists of a million rows.
soak: .venv/dev
	$(BIN)/pytest -m soak -n 0 --timeout 0 -rP

# For as long as one likes: FUZZ_EXAMPLES inputs for each operation and phase, a new seed each time;
# before them, ten times as many requests with bytes changed.
fuzz: .venv/dev
	FUZZ_EXAMPLES=$$(($${FUZZ_EXAMPLES:-1000} * 10)) FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest -n 2 --timeout 0 -rP nutshell/tests/test_hostile.py -k mutated
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest -m slow -n 2 --timeout 0 -rP tests/test_fuzz.py

check: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check
	$(BIN)/mypy --strict *.py nutshell migrations tests $(wildcard bench/*.py)

# Renews every pin to the newest release that fits its requirements.in. What the service installs are
# the same versions that its developers test.
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-emit-index-url --custom-compile-command "make pins"

pins: .venv/dev
	$(PIN) --output-file requirements-dev.txt requirements-dev.in
	$(PIN) --constraint requirements-dev.txt --output-file requirements.txt requirements.in
	for pins in bench/requirements bench/peers/*/requirements; do \
		test ! -e $$pins.in || $(PIN) --output-file $$pins.txt $$pins.in || exit; \
	done

# Asks the internet whether a weakness of a dependency is known, and lists the licences.
audit: .venv/dev
	$(BIN)/pip-audit --requirement requirements.txt --disable-pip
	$(BIN)/pip-licenses --order license --packages $$(sed -n 's/==.*//p' requirements.txt)

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nutshell needs Python 3.11 or newer.")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: requirements.txt | .venv/python
	@echo 'Installing what the service needs into .venv ...'
	sed -n '/^watchfiles==/,/# via/p' requirements-dev.txt > .venv/reload.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r .venv/reload.txt
	@touch $@

.venv/dev: requirements-dev.txt | .venv/python
	@echo 'Installing what its tests and checks need into .venv ...'
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

-include bench/Makefile
