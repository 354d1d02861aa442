# Needs make and Python 3.11 or newer. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m config.embedded run --
# The lock's content is in the stamp's name: only a changed lock is installed again.
STAMP := $(VENV)/installed-$(shell cksum < requirements/dev.lock | tr -d ' ')

RESOLVE = build/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet

# For commands that look at the code only: no server is started or asked.
STATIC := DATABASE_URL=sqlite:// CELERY_BROKER_URL=memory://
PRODUCTION := DEBUG=0 SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))') \
	ALLOWED_HOSTS=crawler.example CSRF_TRUSTED_ORIGINS=https://crawler.example \
	DATABASE_URL=postgres://crawler@localhost/crawler CELERY_BROKER_URL=redis://localhost/0

# What a shell happens to export must not decide what is run.
unexport VIRTUAL_ENV DJANGO_SETTINGS_MODULE PYTHONPATH PYTHONHOME PYTEST_ADDOPTS
# Hundreds of processes are started, and nothing is installed compiled: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup live demo latency bench up test faults soak mutants audit check format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## install what requirements/dev.lock names into .venv, again only when it changed

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),setup)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# Compiled when they are first imported: most of it never is, and that halves the time.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/dev.lock
	@touch $@

demo: $(STAMP) ## break real workers and watch the reaper clean up, on throwaway servers
	@$(RUN) $(BIN)/python -m tools.demo $(ARGS)

latency: $(STAMP) ## kill real workers 20 times and time the recovery (8 minutes); ARGS="--kills 5"
	@$(RUN) $(BIN)/python -m tools.latency $(ARGS)

bench: $(STAMP) ## measure what sweeps cost, against bars and others (20 minutes); PROFILE=small for two
	@$(BIN)/python -m config.embedded run --durable -- $(BIN)/python -m tools.bench --profile $(or $(PROFILE),full) $(ARGS)

up: $(STAMP) ## run the whole stack (web, workers, reaper, Beat) until Ctrl-C
	@$(BIN)/python -m config.up

test: $(STAMP) ## run the tests on throwaway servers; ARGS="-k name" chooses
	@$(RUN) $(BIN)/python -m pytest -m "not lane" --numprocesses 4 --dist loadgroup --maxschedchunk 4 $(ARGS)

live: $(STAMP) ## run the longest tests: worlds of real workers in trouble, the whole deployment (4 minutes)
	@$(RUN) $(BIN)/python -m pytest -m lane --numprocesses 3 --dist loadgroup --maxschedchunk 1 $(ARGS)

faults: $(STAMP) ## what happens when processes and servers fail for real (5 minutes)
	@$(RUN) $(BIN)/python -m pytest -m fault --numprocesses 3 --dist loadgroup --maxschedchunk 1 $(ARGS)

soak: $(STAMP) ## thousands of runs under one fault after the other; MINUTES=30
	@$(RUN) $(BIN)/python -m tools.soak --minutes $(or $(MINUTES),5) $(ARGS)

mutants: $(STAMP) ## take each guard away in turn: the tests must notice (12 minutes); ARGS="brake" chooses
	@$(RUN) $(BIN)/python -m tests.mutants $(ARGS)

check: $(STAMP) ## lint, format, types, layers, migrations, deployment settings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(STATIC) $(BIN)/mypy
	$(BIN)/lint-imports
	$(STATIC) $(BIN)/python manage.py makemigrations --check --dry-run
	@echo "manage.py check --deploy"; $(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING

audit: $(STAMP) ## ask for known holes in what a deployment installs, and write its bill of materials (build/sbom.json)
	@test -x build/audit/bin/pip-audit || $(PYTHON) -m venv build/audit
	@build/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.lock
	@build/audit/bin/python ops/audit.py requirements/host.lock build/sbom.json

format: $(STAMP) ## format the code and repair what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## resolve pyproject.toml anew into the three lock files of requirements/ (uses the network)
	$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(RESOLVE) pyproject.toml --upgrade --group dev --output-file requirements/dev.lock
	$(RESOLVE) pyproject.toml --group host --constraint requirements/dev.lock --output-file requirements/host.lock
	$(RESOLVE) --upgrade --group audit --output-file requirements/audit.lock

clean: ## stop the embedded servers; delete their data, caches, build output and .venv
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m config.embedded delete; fi
	rm -rf .state build dist staticfiles *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV)
