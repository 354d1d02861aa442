# Needs make and Python 3.11 or newer. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m config.embedded run --
# The stamp's name contains the lock's checksum, so only a changed lock is installed again.
STAMP := $(VENV)/installed-$(shell cksum < requirements/dev.lock | tr -d ' ')

RESOLVE = build/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet

# For commands that only read the code: they start no server and connect to none.
STATIC := DATABASE_URL=sqlite:// CELERY_BROKER_URL=memory://
PRODUCTION := DEBUG=0 SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))') \
	ALLOWED_HOSTS=crawler.example CSRF_TRUSTED_ORIGINS=https://crawler.example \
	DATABASE_URL=postgres://crawler@localhost/crawler CELERY_BROKER_URL=redis://localhost/0

# Variables exported by the shell must not change what is run.
unexport VIRTUAL_ENV DJANGO_SETTINGS_MODULE PYTHONPATH PYTHONHOME PYTEST_ADDOPTS
# Packages are installed uncompiled: without bytecode files each of hundreds of processes would compile its imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup live demo latency bench up test faults soak mutants audit check format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## install requirements/dev.lock into .venv; does nothing when it is unchanged

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),setup)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# Modules are compiled on first import: most never are, which halves the time.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/dev.lock
	@touch $@

demo: $(STAMP) ## break real workers and watch the reaper recover their runs, on throwaway servers
	@$(RUN) $(BIN)/python -m tools.demo $(ARGS)

latency: $(STAMP) ## kill real workers 20 times and time the recovery (8 minutes); ARGS="--kills 5"
	@$(RUN) $(BIN)/python -m tools.latency $(ARGS)

bench: $(STAMP) ## measure the cost of sweeps against bars and other queues (20 minutes); PROFILE=small takes 2
	@$(BIN)/python -m config.embedded run --durable -- $(BIN)/python -m tools.bench --profile $(or $(PROFILE),full) $(ARGS)

up: $(STAMP) ## run the whole stack (web, workers, reaper, Beat) until Ctrl-C
	@$(BIN)/python -m config.up

test: $(STAMP) ## run the tests on throwaway servers; ARGS="-k name" selects some
	@$(RUN) $(BIN)/python -m pytest -m "not lane" --numprocesses 4 --dist loadgroup --maxschedchunk 4 $(ARGS)

live: $(STAMP) ## run the longest tests: failing workers, the whole deployment (4 minutes)
	@$(RUN) $(BIN)/python -m pytest -m lane --numprocesses 3 --dist loadgroup --maxschedchunk 1 $(ARGS)

faults: $(STAMP) ## run the tests in which processes and servers really fail (5 minutes)
	@$(RUN) $(BIN)/python -m pytest -m fault --numprocesses 3 --dist loadgroup --maxschedchunk 1 $(ARGS)

soak: $(STAMP) ## run thousands of crawls under random faults (5 minutes); MINUTES=30
	@$(RUN) $(BIN)/python -m tools.soak --minutes $(or $(MINUTES),5) $(ARGS)

mutants: $(STAMP) ## remove each guard in turn: a test must fail (12 minutes); ARGS="brake" selects some
	@$(RUN) $(BIN)/python -m tests.mutants $(ARGS)

check: $(STAMP) ## check lint, format, types, layers, migrations and deployment settings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(STATIC) $(BIN)/mypy
	$(BIN)/lint-imports
	$(STATIC) $(BIN)/python manage.py makemigrations --check --dry-run
	@echo "manage.py check --deploy"; $(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING

audit: $(STAMP) ## check a deployment's packages for known vulnerabilities; write build/sbom.json
	@test -x build/audit/bin/pip-audit || $(PYTHON) -m venv build/audit
	@build/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.lock
	@build/audit/bin/python ops/audit.py requirements/host.lock build/sbom.json

format: $(STAMP) ## format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve pyproject.toml into the three lock files of requirements/ (uses the network)
	$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(RESOLVE) pyproject.toml --upgrade --group dev --output-file requirements/dev.lock
	$(RESOLVE) pyproject.toml --group host --constraint requirements/dev.lock --output-file requirements/host.lock
	$(RESOLVE) --upgrade --group audit --output-file requirements/audit.lock

clean: ## stop the embedded servers; delete their data, caches, build output and .venv
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m config.embedded delete; fi
	rm -rf .state build dist staticfiles *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV)
