# All it needs is Python 3.11 or newer; what the service and its tests need goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test slow soak fuzz check pins footprint bench layers scale mutants screenshot

run: .venv/run
	@trap 'exit 0' INT; TRACE=1 $(BIN)/python -m nutshell --reload

test: .venv/dev
	$(BIN)/pytest -m "not slow and not soak" --cov

slow: .venv/dev
	$(BIN)/pytest -m slow -v -rPs

# SOAK_SECONDS (600) of load, and lists of a million rows.
soak: .venv/dev
	$(BIN)/pytest -m soak -n 0 --timeout 0 -rP

# For as long as one likes: FUZZ_EXAMPLES inputs for each operation and phase, a new seed each time.
fuzz: .venv/dev
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest -m slow -n 2 --timeout 0 -rP tests/test_fuzz.py

check: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check
	$(BIN)/mypy --strict *.py nutshell migrations tests bench/*.py

# Beside its peers: wrk must be installed, node may be. Eight minutes; writes bench/results.md.
bench: .venv/bench
	$(BIN)/python bench/run.py

# The same for the layers of one request, and for workers and connections.
layers scale: .venv/bench
	$(BIN)/python bench/$@.py

# The live view in docs/, light and dark. Needs Debian's chromium.
screenshot: .venv/dev
	$(BIN)/python tests/screenshot.py

# Changes the code at random, and tells which changes no test notices: MUTANTS of them (100).
mutants: .venv/bench
	$(BIN)/python bench/mutants.py

footprint:
	$(PYTHON) -m venv --clear .venv-production
	.venv-production/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv-production/bin/python bench/footprint.py

# Renews every pin to the newest release that fits its requirements.in.
pins: .venv/dev
	for pins in requirements requirements-dev bench/requirements bench/peers/*/requirements; do \
		test ! -e $$pins.in || $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
			--upgrade --no-emit-index-url --custom-compile-command "make pins" \
			--output-file $$pins.txt $$pins.in || exit; \
	done

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nutshell needs Python 3.11 or newer.")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: requirements.txt | .venv/python
	$(BIN)/pip install --quiet --disable-pip-version-check \
		-r requirements.txt --constraint requirements-dev.txt watchfiles
	@touch $@

.venv/dev: requirements-dev.txt | .venv/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/bench: bench/requirements.txt .venv/dev
	$(BIN)/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@
