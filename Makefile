# Every command sets itself up: it makes .venv with what it needs, and goes. With another Python,
# `make quick PYTHON=python3.13`, it makes .venv-python3.13.

ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell command -v python3.11 || command -v python3)
VENV := .venv
else
VENV := .venv-$(notdir $(PYTHON))
endif
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# Tests wait more than they compute, so more of them than there are cores run at once.
JOBS ?= 5

.PHONY: help quick test faults lint docs package bench demo demo-celery clean

help:
	@echo "make quick  run the tests that need no server and no other process: seconds"
	@echo "make test   run every test, on real servers: a quarter of an hour; names what it installs from the system"
	@echo "make lint   ruff, mypy --strict, import-linter, and the project's own rules"
	@echo "make docs   make the pages of docs/, in build/docs"
	@echo "make package  make the wheel and the source distribution, in dist, and check both"
	@echo "make demo   start the demo under gunicorn, on http://127.0.0.1:8000"
	@echo "make demo-celery  the same, its items in a Celery worker, on the Redis that BACKGROUND_CELERY names or one of its own"
	@echo "make faults kill, starve and cut the power of the journal 10,000 times, and stop gunicorn in every way: an hour"
	@echo "make bench  compare speed and memory with ThreadPoolExecutor, Flask-Executor, Huey, Celery and RQ"
	@echo "Each takes another Python, as in make quick PYTHON=python3.13"

# Bytecode is written in any case: without it, pytest compiles every test anew, a quarter of the time.
quick: $(VENV)/.quick
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m unit --numprocesses auto

test: $(VENV)/.test
	@sh tests/system.sh browser strace redis rabbitmq nginx supervisor systemd prometheus
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

faults: $(VENV)/.test
	@sh tests/system.sh strace
	FAULTS=full $(BIN)/python -m pytest tests/faults tests/celery/test_faults.py tests/durable/test_processes.py tests/integration/test_gunicorn_stops.py \
		--numprocesses 2 --dist worksteal --timeout 7200

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_rules

docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --builder html docs build/docs
	@echo "The pages are in build/docs/index.html"

package: $(VENV)/.package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

demo: $(VENV)/.demo
	$(BIN)/gunicorn --config demo_app/gunicorn.conf.py "demo_app:create_app()"

demo-celery: $(VENV)/.demo-celery
	@[ -n "$$BACKGROUND_CELERY" ] || sh tests/system.sh redis
	$(BIN)/python -m demo_app.on_celery

bench: $(VENV)/.bench
	@sh tests/system.sh redis
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-* build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra, renewed when the package's metadata has changed.
$(VENV)/.quick $(VENV)/.lint $(VENV)/.docs $(VENV)/.package $(VENV)/.demo $(VENV)/.demo-celery $(VENV)/.bench: $(VENV)/.%: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[$*]"
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[test]"
	@# The oldest gunicorn that is supported, beside the newest.
	rm -rf $(VENV)/gunicorn-22.0
	$(PIP) --target $(VENV)/gunicorn-22.0 "gunicorn==22.0.0"
	@# Flask's source with its own tests, and a pytest that they were written for.
	rm -rf $(VENV)/flask-suite
	$(PIP) --target $(VENV)/flask-suite/pytest "pytest<9"
	$(BIN)/pip download --quiet --no-deps --no-binary flask --dest $(VENV)/flask-suite \
		"flask==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("flask"))')"
	@touch $@
